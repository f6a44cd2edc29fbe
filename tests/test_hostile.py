"""Files of strangers: whatever stands in them, the reader returns or raises one line; no traceback, no hang, no hunger.

    FUZZ_EXAMPLES=5000 python -m pytest -n 0 tests/test_hostile.py -k spoilt      # the longer mode
"""

from __future__ import annotations

import json
import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest
from hostile import ALLOWED, Reader, odd_files, readers, spoilt
from hypothesis import HealthCheck, Phase, example, given, settings, strategies as st
from tracker_stubs import write_squares

from lib.benchmarks import load_benchmark
from lib.config_file import load_config
from lib.errors import UserError
from lib.images import read_image

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "120"))  # of each of the 19 readers
MEMORY = 2**30  # bytes that reading any file may take on top of what the process has
SECONDS = 60  # that reading any file may take, on a machine busy with a dozen other things

NAMES = [
    "config", "tracker parameters", "index", "index arrays", "packed table", "pictures", "crop", "picture",
    "checkpoint", "COCO", "VOC", "OTB text", "OTB JSON", "VOT text", "VOT JSON", "GOT-10k label", "NfS text",
    "result text", "VOT result",
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

    # The same inputs each time in the test command, others each time in the longer mode.
    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck),
              derandomize="FUZZ_EXAMPLES" not in os.environ, phases=(Phase.explicit, Phase.generate))
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


@pytest.mark.parametrize("name", ["../../evil", "/etc/cron", "..", ".hidden", "a\\b", "a\nb", "x" * 300, "é" * 150, ""])
def test_a_sequence_cannot_name_its_results_out_of_their_folder(tmp_path: Path, name: str) -> None:
    entry = {"gt_rect": [[1, 2, 30, 40]], "img_names": ["s/img/0001.jpg"]}
    (tmp_path / "mine.json").write_text(json.dumps({name: entry}), encoding="utf-8")
    with pytest.raises(UserError, match=r"a sequence is called .* a plain one"):
        load_benchmark("mine", tmp_path, images=False)


def test_sequences_and_frames_may_be_links_to_anywhere(tmp_path: Path) -> None:
    write_squares(tmp_path / "elsewhere", {"far": 3})
    write_squares(tmp_path / "mine", {"near": 3})
    (tmp_path / "mine" / "far").symlink_to(tmp_path / "elsewhere" / "far")
    frame = tmp_path / "mine" / "near" / "img" / "0002.jpg"
    frame.rename(tmp_path / "frame.jpg")
    frame.symlink_to(tmp_path / "frame.jpg")
    benchmark = load_benchmark("mine", tmp_path / "mine", images=True)
    assert [(sequence.name, len(sequence.frames)) for sequence in benchmark.sequences] == [("far", 3), ("near", 3)]
    assert read_image(benchmark.sequences[1].frames[1]).shape == read_image(frame).shape


def test_settings_with_absurd_numbers_are_refused(tmp_path: Path) -> None:
    for words in ("OCEAN.TRAIN.BATCH=10000000000", "OCEAN.TRAIN.END_EPOCH=1000000000", "OCEAN.TRAIN.BASE_LR=1e999",
                  "OCEAN.DATASET.SYN.USE=-1", "OCEAN.TRAIN.SEED=" + "9" * 30):
        path = tmp_path / "tiny.yaml"
        path.write_text("OCEAN:\n  DATASET:\n    SYN: {FORMAT: synthetic}\n", encoding="utf-8")
        with pytest.raises(UserError, match=words.partition("=")[0].replace(".", r"\.")):
            load_config(path, overrides=[words])
