"""What a stranger's test set must not do: name sequences so that results, or link so that frames, lie elsewhere.

Results are files called as the sequence is; frames are opened, hashed and embedded into pages.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from lib.benchmarks.records import Benchmark, Sequence
from lib.errors import UserError
from lib.files import leads_out

_LONGEST_NAME = 200  # characters: endings are added, and a file name may have 255 bytes


def check_places(benchmark: Benchmark, folder: Path, labels: Iterable[str]) -> None:
    """Raise UserError for a sequence whose name is no plain file name, or whose files lie outside the data set.

    The data set is `folder`, or a folder in it or beside it that is called as one of `labels`: those may be links, what
    is in them must not lead out.
    """
    source = benchmark.source if benchmark.source.is_dir() else benchmark.source.parent
    beside = [base / label for base in (folder, folder.parent) for label in labels]
    roots = [os.path.realpath(root) for root in (folder, source, *(root for root in beside if root.is_dir()))]
    for sequence in benchmark.sequences:
        _check_name(sequence.name, benchmark.source)
    links = [Path(entry.path) for entry in os.scandir(source) if entry.is_symlink() and entry.is_dir()]
    names = {sequence.name for sequence in benchmark.sequences}
    _refuse((link for link in links if link.name in names), roots)
    for sequence in benchmark.sequences:
        _check_frames(sequence, roots)


def _check_name(name: str, source: Path) -> None:
    plain = name.isprintable() and not {*name} & {*"/\\:"} and 0 < len(name) <= _LONGEST_NAME
    if not plain or name.startswith("."):
        raise UserError(f"{source}: a sequence is called {name!r:.100}; its results are files of that name, so it "
                        f"must be a plain one of at most {_LONGEST_NAME} characters, without / and no dot in front")


def _check_frames(sequence: Sequence, roots: Iterable[str]) -> None:
    folders = {path.parent for path in sequence.frames}
    _refuse((*folders, *(path for path in sequence.frames if os.path.islink(path))), roots)  # noqa: PTH114 - 60,000


def _refuse(paths: Iterable[Path], roots: Iterable[str]) -> None:
    for path in paths:
        if all(leads_out(path, root) for root in roots):
            raise UserError(f"{path}: a link that leads out of the data set; put the files themselves there, or give "
                            f"the folder they lie in as --dataset_dir")
