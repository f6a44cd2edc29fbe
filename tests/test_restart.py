"""The restart protocol: by a scripted tracker, by hand, and through the command on a small VOT data set."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tracker_stubs import small_checkpoint
from vot_trees import make_video, square

from lib.benchmarks import VOTSequence, load_benchmark
from lib.benchmarks.vot import FAILURE, INIT, REGION, UNKNOWN, read_trajectory
from lib.commands import call
from lib.errors import UserError
from lib.testing.batched import Job, Lockstep, Track
from lib.testing.results import fingerprint
from lib.tracker.scoring import NonFiniteOutput

main = functools.partial(call, "test")
ON, OFF = [20.0, 20, 20, 20], [60.0, 20, 20, 20]


@dataclass(frozen=True)
class State:
    box_xywh: np.ndarray
    score: float = 0.5


@dataclass
class Scripted:
    """Says the box that is written down for each frame; a frame's number is its gray value, 40 for the first."""

    boxes: dict[int, list[float]]
    broken_at: int = -1

    def __post_init__(self) -> None:
        self.starts: list[tuple[int, list[float]]] = []
        self.batches: list[int] = []

    def init(self, image: np.ndarray, box_xywh: Any) -> State:
        self.starts.append((int(image.mean().round()) - 40, np.asarray(box_xywh).tolist()))
        return State(np.asarray(box_xywh))

    def track(self, state: State, image: np.ndarray) -> State:
        return self.begin([state], [image])()[0]

    def begin(self, states: list[State], images: list[np.ndarray]) -> Callable[[], list[State]]:
        self.batches.append(len(states))
        numbers = [int(image.mean().round()) - 40 for image in images]

        def answer() -> list[State]:
            if self.broken_at in numbers:
                raise NonFiniteOutput([numbers.index(self.broken_at)])
            return [State(np.array(self.boxes.get(number, ON))) for number in numbers]

        return answer


def video(tmp_path: Path, length: int, name: str = "bag") -> VOTSequence:
    regions = [square(20 + 0.5 * (i > 8), 20) for i in range(length)]
    make_video(tmp_path / "VOT2018", name, regions, images=True)
    benchmark = load_benchmark("VOT2018", tmp_path, images=True)
    sequence = next(s for s in benchmark.sequences if s.name == name)
    assert isinstance(sequence, VOTSequence)
    return sequence


def run_restart(tracker: Scripted, sequence: VOTSequence) -> Track:
    track, = Lockstep([tracker]).follow(iter([Job(sequence)]))
    return track


def test_a_lost_target_is_started_again_five_frames_later(tmp_path: Path) -> None:
    tracker = Scripted({4: OFF, 12: OFF})
    track = run_restart(tracker, video(tmp_path, 20))
    lost = [FAILURE, *[UNKNOWN] * 4, INIT]
    assert track.codes.tolist() == [INIT, *[REGION] * 3, *lost, REGION, REGION, *lost, *[REGION] * 2]
    assert [frame for frame, _ in tracker.starts] == [0, 9, 17]
    # From that frame's own polygon: a square of 20, plus the rule's 1 px, moved by half a pixel after frame 8.
    assert tracker.starts[0][1] == pytest.approx([19.5, 19.5, 21, 21])
    assert tracker.starts[1][1] == pytest.approx([20, 19.5, 21, 21])
    assert np.isfinite(track.boxes_xywh).all(axis=1).tolist() == (track.codes == REGION).tolist()
    assert len(tracker.batches) == 3 + 1 + 2 + 1 + 2  # nothing is tracked in skipped frames


@pytest.mark.parametrize(("box", "lost"), [
    ([40.0, 20, 20, 20], True),  # touches the right side: no area in common
    ([39.9, 20, 20, 20], False), ([-20.0, -20, 40.1, 40.1], False), ([20.0, 41, 5, 5], True),
])  # fmt: skip
def test_any_area_in_common_is_enough(tmp_path: Path, box: list[float], lost: bool) -> None:
    assert run_restart(Scripted({1: box}), video(tmp_path, 2)).codes[1] == (FAILURE if lost else REGION)


def test_the_rotated_region_counts_not_its_box(tmp_path: Path) -> None:
    make_video(tmp_path / "VOT2018", "bag", [[30, 10, 50, 30, 30, 50, 10, 30]] * 2, images=True)
    sequence, = load_benchmark("VOT2018", tmp_path, images=True).sequences
    assert isinstance(sequence, VOTSequence)
    # In the corner of the diamond's bounding box, outside the diamond.
    assert run_restart(Scripted({1: [10, 10, 8, 8]}), sequence).codes[1] == FAILURE


def test_a_failure_near_the_end_leaves_skipped_frames(tmp_path: Path) -> None:
    assert run_restart(Scripted({4: OFF}), video(tmp_path, 6)).codes.tolist() == [
        INIT, *[REGION] * 3, FAILURE, UNKNOWN]  # fmt: skip
    assert run_restart(Scripted({}), video(tmp_path, 1, "ball1")).codes.tolist() == [INIT]


def test_many_videos_and_trackers_at_once_are_each_alone(tmp_path: Path) -> None:
    sequences = {name: video(tmp_path, length, name) for name, length in (("bag", 9), ("ball1", 14), ("book", 3))}
    trackers = [Scripted({4: OFF}), Scripted({2: OFF})]
    jobs = [Job(sequence, (0, 1)) for sequence in sequences.values()]
    tracks = list(Lockstep(trackers, batch=2).follow(iter(jobs)))
    assert len(tracks) == 6
    assert max(trackers[0].batches) == 2
    for track in tracks:
        alone = run_restart(Scripted({4: OFF} if track.tracker == 0 else {2: OFF}), sequences[track.job.sequence.name])
        assert np.array_equal(track.codes, alone.codes)
        assert np.array_equal(track.boxes_xywh, alone.boxes_xywh, equal_nan=True)
        assert track.seconds > 0


def test_what_goes_wrong_is_told_with_video_and_frame(tmp_path: Path) -> None:
    sequence = video(tmp_path, 6)
    with pytest.raises(UserError, match=r"bag: frame 4 of 6 \(00000004\.jpg\): the network returned NaN"):
        run_restart(Scripted({}, broken_at=3), sequence)
    sequence.frames[2].write_bytes(b"no image")
    with pytest.raises(UserError, match=r"bag: frame 3 of 6"):
        run_restart(Scripted({}), sequence)


def test_a_result_hangs_on_every_polygon(tmp_path: Path) -> None:
    before = fingerprint(video(tmp_path, 4))
    path = tmp_path / "VOT2018" / "bag" / "groundtruth.txt"
    first, rest = path.read_text().split("\n", 1)
    path.write_text(f"{first}\n{rest.replace('20.0,20', '21.0,20')}")
    after, = load_benchmark("VOT2018", tmp_path, images=True).sequences
    assert fingerprint(after) != before


# The command


def test_the_command_runs_and_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("bag", "ball1"):
        video(tmp_path / "dataset", 8, name)
    small_checkpoint(tmp_path / "snapshot" / "OceanV.pth", align=True)
    monkeypatch.chdir(tmp_path)
    command = ["--arch", "Ocean", "--resume", "snapshot/OceanV.pth", "--dataset", "VOT2018", "--align", "True",
               "--online", "False", "--epoch_test", "False"]
    assert main([*command, "--vis"]) == 0
    folder = tmp_path / "result" / "VOT2018" / "Ocean"
    results = sorted(folder.glob("baseline/*/*"))
    assert [path.relative_to(folder).as_posix() for path in results] == [
        "baseline/bag/bag_001.txt", "baseline/ball1/ball1_001.txt"]
    assert read_trajectory(results[0]).codes[0] == INIT
    assert len(results[0].read_text().splitlines()) == 8
    assert sorted(path.stem for path in (folder / "vis").iterdir()) == ["bag", "ball1"]
    assert json.loads((folder / "run.json").read_text())["identity"]["tracker"]["window_influence"] == 0.321
    # A second start finds everything done; a changed checkpoint is refused.
    written = results[0].stat().st_mtime_ns
    assert main(command) == 0
    assert results[0].stat().st_mtime_ns == written
    small_checkpoint(tmp_path / "snapshot" / "OceanV.pth", align=True, seed=1)
    with pytest.raises(UserError, match="holds results of checkpoint"):
        main(command)
    assert main([*command, "--fresh"]) == 0
    capsys.readouterr()
    assert call("eval", ["--dataset_dir", "dataset", "--dataset", "VOT2018", "--tracker_result_dir", "result",
                     "--trackers", "Ocean", "--allow-missing"]) == 0
    assert "2/60" in capsys.readouterr().out
