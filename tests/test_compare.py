"""Comparing models: what they cost, counted by hand too, and which results are theirs."""

import json
import mmap
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lib.benchmarks import Benchmark, load_benchmark, write_result
from lib.checkpoint import find_weights, save_checkpoint
from lib.commands import call
from lib.config_file import load_config
from lib.errors import UserError
from lib.models.models import build_model
from lib.tools.compare import Entry, Figures, Score, find_score, read_entry, table
from lib.tools.measure import (
    Cost,
    FrameTimer,
    Speed,
    calibrate_bn,
    count_cost,
    most_memory,
    time_in_turns,
    watch_memory,
)
from lib.tracker.ocean import OceanTracker
from lib.tracker.params import TrackerParams

TINY = {"arch": "Ocean", "backbone": "ResNetSmall", "backbone_options": {"width": 4, "layers": [1, 1, 1]},
        "channels": 8, "towernum": 1, "align": False}


def tiny_yaml(path: Path, *, align: bool = False, snapshot: str = "snapshot") -> Path:
    path.write_text(f"""OCEAN:
  CHECKPOINT_DIR: {snapshot}
  TRAIN: {{BACKBONE: ResNetSmall, BACKBONE_OPTIONS: {{width: 4, layers: [1, 1, 1]}}, CHANNELS: 8, TOWERNUM: 1,
          ALIGN: {align}}}
""", encoding="utf-8")
    return path


def flops_by_hooks(model: nn.Module, *, search_size: int) -> int:
    """Return the FLOPs of a search frame: each convolution by its own shapes, and the six correlations."""
    total = 0

    def count(layer: nn.Module, _: object, out: torch.Tensor) -> None:
        nonlocal total
        total += 2 * out.numel() * layer.in_channels // layer.groups * layer.kernel_size[0] * layer.kernel_size[1]

    template = model.template(torch.zeros(1, 3, 127, 127))
    hooks = [part.register_forward_hook(count) for part in model.modules() if isinstance(part, nn.Conv2d)]
    with torch.no_grad():
        output = model.track(torch.zeros(1, 3, search_size, search_size), template)
    for hook in hooks:
        hook.remove()
    side, channels = output.cls.shape[-1], template.zf.shape[1]
    return total + 2 * 2 * channels * side * side * (25 + 15 + 15)


@pytest.mark.parametrize("search_size", [255, 271])
def test_the_flops_are_those_counted_layer_by_layer(search_size: int) -> None:
    model = build_model(**TINY).eval()
    assert count_cost(model, search_size=search_size).search_flops == flops_by_hooks(model, search_size=search_size)


def test_the_object_aware_branch_costs_its_two_convolutions() -> None:
    plain = count_cost(build_model(**TINY).eval(), search_size=255)
    aligned = count_cost(build_model(**{**TINY, "align": True}).eval(), search_size=255)
    cells, channels = 25 * 25, 8
    assert aligned.search_flops - plain.search_flops == 2 * cells * (channels * channels * 9 + channels)
    assert aligned.template_flops == plain.template_flops
    assert aligned.parameters - plain.parameters == channels * channels * 9 + channels + 1


def test_a_settled_model_gives_finite_frames_and_keeps_its_settings() -> None:
    torch.manual_seed(0)
    model = build_model(**{**TINY, "backbone_options": {"width": 4, "layers": [2, 3, 6]}})
    norms = [part for part in model.modules() if isinstance(part, nn.BatchNorm2d)]
    calibrate_bn(model)
    assert not model.training
    assert {part.momentum for part in norms} == {0.1}
    timer = FrameTimer(OceanTracker(model, TrackerParams()), width=160, height=120)
    taken = timer.seconds(2)
    assert len(taken) == 2
    assert min(taken) > 0
    assert timer.peak_bytes(0) > 2**20
    asked: list[int] = []
    (speed,) = time_in_turns([lambda count: asked.append(count) or [0.001, 0.002, 0.003]], 15)
    assert asked == [3] * 5
    assert speed.median == pytest.approx(2.0)
    assert speed.low < speed.median < speed.high


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux forgets an earlier peak")
def test_memory_is_the_most_since_it_was_watched() -> None:
    for wanted in (64, 0, 32):  # MiB; a smaller use after a larger one is seen too
        before = watch_memory()
        with mmap.mmap(-1, wanted * 2**20 + 1) as block:  # an array could lie in what the heap holds already
            for page in range(0, len(block), mmap.PAGESIZE):
                block[page] = 1
        assert wanted <= (most_memory() - before) / 2**20 + 1 < wanted + 8


def write_run(root: Path, name: str, benchmark: Benchmark, *, model: dict, checkpoint: str, shift: float,
              tuned_on: str = "") -> None:
    folder = root / name
    for sequence in benchmark.sequences:
        boxes_xywh = sequence.boxes_xywh + np.array([shift, 0, 0, 0])
        write_result(folder / f"{sequence.name}.txt", boxes_xywh, dataset=benchmark.name)
    run = {"identity": {"model": model}, "checkpoint": checkpoint, "tuned_on": tuned_on}
    (folder / "run.json").write_text(json.dumps(run), encoding="utf-8")


@pytest.fixture
def benchmark(tmp_path: Path) -> Benchmark:
    for name in ("A", "B"):
        folder = tmp_path / "dataset" / "MINE" / name
        folder.mkdir(parents=True)
        rows = np.column_stack([np.arange(5) + 20, np.arange(5) + 30, np.full(5, 40), np.full(5, 50)])
        (folder / "groundtruth_rect.txt").write_text("\n".join(",".join(map(str, row)) for row in rows), "utf-8")
    return load_benchmark("MINE", tmp_path / "dataset", images=False)


def test_a_model_finds_the_results_of_its_last_epoch(tmp_path: Path, benchmark: Benchmark) -> None:
    write_run(tmp_path, "best", benchmark, model=TINY, checkpoint="snapshot/checkpoint_e9.pth", shift=0)
    write_run(tmp_path, "last", benchmark, model=TINY, checkpoint="snapshot/checkpoint_e10.pth", shift=25,
              tuned_on="MINE")
    write_run(tmp_path, "other", benchmark, model={**TINY, "channels": 9}, checkpoint="s/checkpoint_e99.pth", shift=0)
    entry = Entry("tiny", TINY, Path("snapshot"))
    score = find_score(entry, tmp_path, benchmark)
    assert (score.tracker, score.checkpoint, score.tuned_on) == ("last", "checkpoint_e10.pth", "MINE")
    assert score.values["precision"] == 0  # 25 px off everywhere
    assert 0 < score.values["success"] < 0.5
    named = find_score(Entry("tiny", TINY, Path("snapshot"), "best"), tmp_path, benchmark)
    assert named.values["precision"] == 1
    assert find_score(Entry("wide", {**TINY, "channels": 12}, Path("s")), tmp_path, benchmark) is None
    with pytest.raises(UserError, match="no such folder of results"):
        find_score(Entry("tiny", TINY, Path("snapshot"), "absent"), tmp_path, benchmark)


def test_a_training_file_and_its_checkpoint_find_what_was_tested(
    tmp_path: Path, benchmark: Benchmark, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tiny_yaml(tmp_path / "Aligned.yaml", align=True, snapshot="snapshot/Aligned")
    model = build_model(**load_config(file).model_options())
    save_checkpoint("snapshot/Aligned/checkpoint_e2.pth", {"model": model.spec, "state_dict": model.state_dict()})
    write_run(tmp_path, "Mine", benchmark, model=model.spec, checkpoint="snapshot/Aligned/checkpoint_e2.pth", shift=0)
    write_run(tmp_path, "Plain", benchmark, model={**model.spec, "align": False}, shift=25,
              checkpoint="snapshot/Aligned/checkpoint_e2.pth")
    write_run(tmp_path, "Foreign", benchmark, model=model.spec, checkpoint="other/checkpoint_e9.pth", shift=25)
    entries = [read_entry("Aligned.yaml"), read_entry("snapshot/Aligned/checkpoint_e2.pth")]
    assert [entry.name for entry in entries] == ["Aligned", "Aligned/checkpoint_e2"]
    assert [find_score(entry, tmp_path, benchmark).tracker for entry in entries] == ["Mine", "Mine"]


def test_two_files_of_one_model_are_told_apart_by_their_checkpoints(tmp_path: Path, benchmark: Benchmark) -> None:
    write_run(tmp_path, "one", benchmark, model=TINY, checkpoint="snapshot/one/checkpoint_e2.pth", shift=0)
    write_run(tmp_path, "two", benchmark, model=TINY, checkpoint="snapshot/two/checkpoint_e2.pth", shift=25)
    entries = [Entry(name, TINY, Path("snapshot") / name) for name in ("one", "two")]
    assert [find_score(entry, tmp_path, benchmark).tracker for entry in entries] == ["one", "two"]


def test_the_table_says_what_a_score_stands_for() -> None:
    entry = Entry("tiny", TINY, Path("snapshot"))
    figure = Figures(Cost(1_500_000, 2 * 10**9, 3 * 10**9), Speed(18.0, 20.0, 30.0), 7 * 2**20)
    score = Score("Tiny", "checkpoint_e3.pth", {"success": 0.5, "precision": 0.75}, 9, 100, "OTB2015")
    text = table([entry, entry], [figure, figure], [score, None], dataset="OTB2015", search_size=271, amp="bf16",
                 where="a machine; commit abc")
    assert ("| tiny | 1.50 M | 3.00 | 2.00 | 50.0 | 20.0 (18.0 .. 30.0) | 7 MiB | 0.500 | 0.750 | Tiny, "
            "checkpoint_e3.pth, 9 of 100 sequences, tracker tuned on OTB2015 |") in text
    assert "|  |  | none found |" in text
    assert "271 px, bf16" in text
    assert text.endswith("Measured on a machine; commit abc.")


def test_the_command_prints_and_writes_one_table(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    file = str(tiny_yaml(tmp_path / "Aligned.yaml", align=True))
    command = [file, "--frames", "5", "--device", "cpu", "--search_size", "255", "--out", "table.md"]
    assert call("compare", command) == 0
    text = capsys.readouterr().out
    assert (tmp_path / "table.md").read_text(encoding="utf-8") == text
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| Aligned")]
    assert len(rows) == 1
    assert all(float(row[4]) > 0 and "MiB" in row[6] for row in rows)


def test_wrong_commands_are_refused_in_one_line(tmp_path: Path) -> None:
    path = tiny_yaml(tmp_path / "Plain.yaml")
    with pytest.raises(UserError, match="same name"):
        call("compare", [str(path), f"{path}=Tracker"])
    with pytest.raises(UserError, match="no such file"):
        call("compare", [str(tmp_path / "absent.yaml")])
    with pytest.raises(UserError, match=r"--out .*: cannot be written"):
        call("compare", [str(path), "--out", str(path / "table.md")])
    assert read_entry(f"{path}=Tracker").tracker == "Tracker"


def test_shipped_weights_are_compared_by_name(tmp_path: Path, benchmark: Benchmark) -> None:
    entry = read_entry("OceanSmall")
    assert entry.name == "OceanSmall"
    write_run(tmp_path, "T", benchmark, model=entry.model, checkpoint=str(find_weights("OceanSmall")), shift=0)
    assert find_score(entry, tmp_path, benchmark).tracker == "T"
    with pytest.raises(UserError, match="did you mean OceanSmall"):
        read_entry("OceanSmal")
