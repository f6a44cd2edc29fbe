"""`python -m lib.datasets.prepare SOURCE ...`, or `check`, `classes`, `pack`, `select` in the place of a source."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from lib.commands import call
from lib.errors import run


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit code of the command line; raise UserError for what only the user can mend."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and words[0] in ("check", "classes", "pack", "select"):
        return call(f"prepare {words[0]}", words[1:])
    return call("prepare", words)


if __name__ == "__main__":
    run(main)
