"""`prepare select`: an index of some of the videos of another, so that a source can be weighed or held out in parts."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from lib.datasets.index import MAX_BYTES
from lib.errors import UserError
from lib.files import atomic_write, read_json


def select(index: Path, out: Path, *, only: Sequence[str], without: Sequence[str] = ()) -> tuple[int, int]:
    """Return how many videos there are and how many of them `out` now holds, in the same order.

    Those whose name fits one of the shell patterns `only` and none of `without`. Raises UserError if that is none, if
    a pattern fits nothing (a misspelt name would silently hold nothing out), or if the index cannot be read.
    """
    if out.resolve() == index.resolve():
        raise UserError(f"--out {out}: is the index itself; choose another name")
    videos = read_json(index, max_bytes=MAX_BYTES)
    if not isinstance(videos, dict):
        raise UserError(f"{index}: expected the index of a source, {{video: {{track: {{frame: box}}}}}}")
    for pattern in (*only, *without):
        if not any(fnmatchcase(name, pattern) for name in videos):
            raise UserError(f"{index}: no video is called '{pattern}'; it holds {', '.join(sorted(videos)[:3])} ...")
    chosen = {name: tracks for name, tracks in videos.items()
              if any(fnmatchcase(name, pattern) for pattern in only)
              and not any(fnmatchcase(name, pattern) for pattern in without)}
    if not chosen:
        raise UserError(f"{index}: --without leaves none of its {len(videos)} videos")
    with atomic_write(out) as file:
        json.dump(chosen, file)
    return len(videos), len(chosen)


def main(arguments: Sequence[str]) -> int:
    """Return 0 when the smaller index is written."""
    parser = argparse.ArgumentParser(prog="python -m lib.datasets.prepare select", description=__doc__)
    parser.add_argument("index", type=Path, help="an index that prepare made; its crops stay where they are")
    parser.add_argument("--out", type=Path, required=True, help="the smaller index, beside it")
    parser.add_argument("--only", nargs="+", default=["*"], metavar="PATTERN", help="videos to keep, as 'foda_*'")
    parser.add_argument("--without", nargs="+", default=[], metavar="PATTERN", help="videos to leave out")
    given = parser.parse_args(arguments)
    total, kept = select(given.index, given.out, only=given.only, without=given.without)
    print(f"{given.out}: {kept} of {total} videos")
    return 0
