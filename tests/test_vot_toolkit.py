"""The tracker that the official vot-toolkit starts, and the workspace: by a scripted toolkit, and by the real one."""

from __future__ import annotations

import configparser
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from tracker_stubs import small_checkpoint
from vot_trees import make_video, square

import lib.tools.vot_toolkit as toolkit
from lib.commands import call
from lib.errors import UserError
from lib.tools.vot_toolkit import Objects, box_of, serve
from lib.tracker.scoring import NonFiniteOutput

ROOT = Path(__file__).resolve().parents[1]


def rectangle(*box: float) -> Any:
    return SimpleNamespace(type="rectangle", bounds=lambda: box)


def mask(pixels: np.ndarray, *, left: int = 0, top: int = 0) -> Any:
    return SimpleNamespace(type="mask", array=lambda: pixels, offset=lambda: (left, top))


class Polygon(list):  # type: ignore[type-arg]
    type = "polygon"


# The protocol's side, without any package


def test_every_kind_of_region_has_its_box() -> None:
    assert box_of(rectangle(1.5, 2, 3, 4)).tolist() == [1.5, 2, 3, 4]
    side = np.sqrt(800) + 1  # the diamond's own side, plus the 1 px of the rule: as in VOT2015-2019
    assert box_of(Polygon([(30, 10), (50, 30), (30, 50), (10, 30)])) == pytest.approx(
        [30 - side / 2, 30 - side / 2, side, side])
    pixels = np.zeros((5, 6), np.uint8)
    pixels[1:3, 2:6] = 1
    assert box_of(mask(pixels, left=10, top=20)).tolist() == [12, 21, 4, 2]
    for nothing in (mask(np.zeros((3, 3), np.uint8)), SimpleNamespace(type="special")):
        with pytest.raises(UserError, match="expected a rectangle, a polygon or a mask with pixels"):
            box_of(nothing)


@dataclass(frozen=True)
class State:
    box_xywh: np.ndarray
    score: float
    search_size: int


@dataclass
class Mover:
    """Moves every box by 1 px a frame; targets wider than 20 px have the larger search crop."""

    broken: bool = False
    batches: list[int] = field(default_factory=list)

    def init(self, image: np.ndarray, box: np.ndarray, /) -> State:
        return State(np.asarray(box), 1.0, 271 if box[2] > 20 else 255)

    def begin(self, states: list[State], images: list[np.ndarray], /) -> Callable[[], list[State]]:
        assert len(states) == len(images)
        if self.broken:
            raise NonFiniteOutput([0])
        self.batches.append(len(states))
        return lambda: [State(state.box_xywh + np.array([1, 0, 0, 0]), 0.5, state.search_size) for state in states]


class Toolkit:
    """Asks what is written down and keeps the answers."""

    def __init__(self, frame: Path, script: list[tuple[str, list[Any] | None]]) -> None:
        self.frame, self.script, self.answers = frame, iter(script), []

    def wait(self) -> Any:
        kind, regions = next(self.script)
        objects = None if regions is None else [(region, {}) for region in regions]
        return SimpleNamespace(type=kind, image={"color": SimpleNamespace(path=lambda: str(self.frame))},
                               objects=objects)

    def status(self, objects: list[Any], /) -> None:
        self.answers.append([(box.tolist(), properties) for box, properties in objects])


@pytest.fixture
def frame(tmp_path: Path) -> Path:
    return make_video(tmp_path, "bag", [square(0, 0)], images=True) / "color" / "00000001.jpg"


def test_objects_are_answered_in_the_order_they_came(frame: Path) -> None:
    tracker = Mover()
    toolkit = Toolkit(frame, [("initialize", [rectangle(0, 0, 10, 10), rectangle(5, 5, 30, 9)]), ("frame", None),
                              ("frame", [rectangle(7, 7, 11, 11)]), ("frame", []),
                              ("initialize", [rectangle(2, 2, 3, 3)]), ("frame", None), ("quit", None)])
    assert serve(toolkit, Objects(tracker), answer=lambda box: box) == 6
    boxes = [[box for box, _ in answer] for answer in toolkit.answers]
    assert boxes[0] == [[0, 0, 10, 10], [5, 5, 30, 9]]
    assert boxes[1] == [[1, 0, 10, 10], [6, 5, 30, 9]]
    assert boxes[2] == [[2, 0, 10, 10], [7, 5, 30, 9], [7, 7, 11, 11]]  # one that appears later
    assert boxes[3] == [[3, 0, 10, 10], [8, 5, 30, 9], [8, 7, 11, 11]]
    assert boxes[4:] == [[[2, 2, 3, 3]], [[3, 2, 3, 3]]]  # a new start forgets the others
    assert [properties for _, properties in toolkit.answers[2]] == [
        {"confidence": 0.5}, {"confidence": 0.5}, {"confidence": 1.0}]
    assert tracker.batches == [2, 2, 3, 1]  # all objects of a frame together; the tracker parts its search sizes


def test_a_network_that_has_diverged_is_told_with_the_image(frame: Path) -> None:
    toolkit = Toolkit(frame, [("initialize", [rectangle(0, 0, 9, 9)]), ("frame", None)])
    with pytest.raises(UserError, match=r"00000001\.jpg: the network returned NaN"):
        serve(toolkit, Objects(Mover(broken=True)), answer=lambda box: box)


def test_without_the_package_the_script_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trax", None)
    with pytest.raises(UserError, match=r"vot-toolkit needs trax .*pip install -e '\.\[vot\]'"):
        call("vot", ["--resume", "none.pth"])


# The workspace


def made(tmp_path: Path, *more: str, stack: str = "vot2018/shortterm") -> Path:
    folder = tmp_path / "my space"
    checkpoint = tmp_path / "100% best.pth"
    checkpoint.touch()
    assert call("vot workspace", [str(folder), "--stack", stack, "--resume", str(checkpoint), *more]) == 0
    return folder


def test_the_workspace_names_stack_tracker_and_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = made(tmp_path, "--align", "True", "--device", "cpu")
    assert yaml.safe_load((folder / "config.yaml").read_text()) == {
        "stack": "vot2018/shortterm", "registry": ["./trackers.ini"]}
    assert (folder / "sequences").is_dir()
    assert (folder / "results").is_dir()
    assert f"vot evaluate --workspace '{folder}' Ocean" in capsys.readouterr().out
    registry = configparser.ConfigParser()  # as the toolkit reads it
    registry.read(folder / "trackers.ini")
    tracker = registry["Ocean"]
    assert (tracker["protocol"], tracker["label"], tracker["timeout"]) == ("trax", "Ocean", "300")
    assert shlex.split(tracker["command"]) == [
        sys.executable, str(ROOT / "lib" / "__main__.py"), "vot", "--align=True", "--device=cpu",
        f"--resume={tmp_path / '100% best.pth'}", "--dataset=VOT2018"]


def test_trackers_are_added_and_replaced(tmp_path: Path) -> None:
    made(tmp_path)
    made(tmp_path, "--name", "Other")
    folder = made(tmp_path, "--amp", "bf16", "--label", "Ocean, half")
    registry = configparser.ConfigParser()
    registry.read(folder / "trackers.ini")
    assert registry.sections() == ["Ocean", "Other"]
    assert registry["Ocean"]["label"] == "Ocean, half"
    assert " --amp=bf16 " in registry["Ocean"]["command"]
    with pytest.raises(UserError, match=r"a workspace of another stack.*--stack vot2018/shortterm"):
        made(tmp_path, stack="vot2022/shorttermbox")


def test_videos_may_lie_elsewhere(tmp_path: Path) -> None:
    videos = make_video(tmp_path / "videos", "bag", [square(0, 0)], images=True).parent
    with pytest.raises(UserError, match=r"no list\.txt"):
        made(tmp_path, "--sequences", str(videos))
    videos.joinpath("list.txt").write_text("bag\n")
    folder = made(tmp_path, "--sequences", str(videos))
    assert yaml.safe_load((folder / "config.yaml").read_text())["sequences"] == str(videos)


@pytest.mark.parametrize(("flags", "message"), [
    (["--name", "my tracker"], "letters, digits"), (["--resume", "gone.pth"], "no such checkpoint file"),
    (["--stack", "gone.yaml"], "no such file"), (["--arch", "Oceon"], "did you mean Ocean"),
    (["--params", "gone.yaml"], r"gone\.yaml"),
])
def test_what_the_toolkit_would_trip_over_is_refused(tmp_path: Path, flags: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        made(tmp_path, *flags)


# The real toolkit


def test_the_real_toolkit_runs_its_test_stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("vot", reason="the extra 'vot' is not installed")
    monkeypatch.setattr(toolkit, "DUMMY_FRAMES", 6)
    checkpoint = small_checkpoint(tmp_path / "small.pth")
    folder = tmp_path / "workspace"
    with pytest.raises(UserError, match="did you mean tests/basic"):
        call("vot workspace", [str(folder), "--stack", "tests/basik", "--resume", str(checkpoint)])
    call("vot workspace", [str(folder), "--stack", "tests/basic", "--resume", str(checkpoint), "--dummy", "--device",
                           "cpu"])
    done = subprocess.run([sys.executable, "-m", "vot", "evaluate", "--workspace", str(folder), "Ocean"],
                          cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert "Evaluation concluded" in done.stdout + done.stderr
    results = folder / "results" / "Ocean" / "baseline" / "dummy"
    assert len((results / "dummy_001_confidence.value").read_text().splitlines()) == 6
    from vot.region.io import read_trajectory

    assert len(read_trajectory(str(results / "dummy_001.bin"))) == 6
