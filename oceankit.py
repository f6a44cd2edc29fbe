"""The command `oceankit`. What it does lies in the package `lib`, if that is OceanKit's and no other of this name."""

import importlib.util
import sys
from pathlib import Path
from typing import NoReturn


def main() -> NoReturn:
    """Run the command of this process's words and leave with its exit code; 2 where another `lib` comes first."""
    ours = Path(__file__).resolve().parent / "lib"
    found = importlib.util.find_spec("lib")
    if found is None or found.origin is None or Path(found.origin).resolve().parent != ours:
        print(f"error: another package called lib comes before OceanKit's {ours}: {found and found.origin}; take its "
              f"folder out of PYTHONPATH, or start {sys.executable} {ours} in the place of oceankit", file=sys.stderr)
        sys.exit(2)
    from lib import commands, errors

    errors.run(commands.main)
