"""Files of strangers: whatever stands in them, the reader returns or raises one line; no traceback, no hang, no hunger.

    FUZZ_EXAMPLES=5000 python -m pytest -n 0 tests/test_hostile.py -k spoilt      # the longer mode
"""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest
from hostile import ALLOWED, Reader, odd_files, readers, spoilt
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "120"))  # of each of the 20 readers
MEMORY = 2**30  # bytes that reading any file may take on top of what the process has
SECONDS = 60  # that reading any file may take, on a machine busy with a dozen other things

NAMES = [
    "config", "tracker parameters", "index", "index arrays", "packed table", "pictures", "crop", "picture",
    "checkpoint", "COCO", "VOC", "OTB text", "OTB JSON", "VOT text", "VOT JSON", "GOT-10k label", "NfS text",
    "result text", "VOT result", "MATLAB result",
]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Reader]]:
    """The readers, in a process that may take only so much more memory."""
    found = readers(tmp_path_factory.mktemp("hostile"))
    assert sorted(found) == sorted(NAMES)
    for reader in found.values():
        reader.read()  # the good file; also loads what is imported late
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, before[1]))
    yield found
    resource.setrlimit(resource.RLIMIT_AS, before)


class Hang(BaseException):
    """Not an Exception, which a reader may catch."""


def read(reader: Reader) -> str:
    """Return what the reader says of its file, "" for nothing; fails when it hangs or raises anything else."""
    def hangs(_number: int, _frame: FrameType | None) -> None:
        raise Hang(f"no answer within {SECONDS} s")

    before = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(SECONDS)
    said = ""
    try:
        reader.read()
    except ALLOWED as error:
        said = str(error) or "\n"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert len(said.splitlines()) <= 1, "one line"
    assert said.strip() == said
    assert len(said) < 2000, "a line that can be read"
    return said


@pytest.mark.parametrize("name", NAMES)
def test_a_spoilt_file_is_read_or_refused_in_one_line(hostile: dict[str, Reader], name: str) -> None:
    reader = hostile[name]

    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck),
              phases=(Phase.explicit, Phase.generate))
    @given(st.builds(bytes, spoilt(reader.good)))
    @example(b"")
    def attempt(data: bytes) -> None:
        reader.path.write_bytes(data)
        read(reader)

    attempt()
    reader.path.write_bytes(reader.good)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_such_file_at_all_is_refused_in_one_line(hostile: dict[str, Reader], name: str) -> None:
    reader = hostile[name]
    for what in odd_files(reader.path):
        try:
            said = read(reader)
        except Exception as error:
            raise AssertionError(f"{name}: {what}: {type(error).__name__}: {error}") from error
        # Arrays beside an index are made again; a label that is no file is said to be missing in a note.
        assert said or name in ("index arrays", "GOT-10k label"), f"{name}: {what} was accepted"
    reader.path.write_bytes(reader.good)
