"""Files of other projects: SOTS' YAML and checkpoints, and results of SOTS, pytracking, OSTrack and pysot."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from otb_trees import boxes_of, make_sequence, write_rows
from test_checkpoint import same_weights, small_model
from test_layouts import BOXES, put, rows, vot_lt

from lib.benchmarks import find_results, load_benchmark, read_result_rows
from lib.checkpoint import load_weights
from lib.commands import call
from lib.config_file import load_config
from lib.errors import UserError
from lib.eval_toolkit.protocols import score_results
from lib.tracker.params import TrackerParams, load_tracker_params

SOTS = """
COMMON: {LOG_DIR: logs_sots, CHECKPOINT_DIR: snap, GPUS: '0,1,2,3'}
MODEL:
  NAME: Ocean
  BACKBONE: {NAME: ResNet50Dilated, LAYER: [3]}
  NECK: {NAME: ShrinkChannel, IN_CHANNEL: 1024, OUT_CHANNEL: 192}
  HEAD: {NAME: FCOSOcean, IN_CHANNEL: 192, OUT_CHANNEL: 192, TOWERNUM: 3, ALIGN: False}
  LOSS: {CLS_LOSS: WBCE, REG_LOSS: FCOSIOU}
TRAIN:
  ISTRUE: True
  WORKERS: 7
  START_EPOCH: 0
  END_EPOCH: 50
  TEMPLATE_SIZE: 127
  SEARCH_SIZE: 255
  BATCH: 24
  STRIDE: 8
  RESUME: False
  PRETRAIN: 'resnet50dilated.model'
  LR_POLICY: 'log'
  PRINT_FREQ: 20
  CLS_WEIGHT: 1
  REG_WEIGHT: 1
  CLIP_GRAD: True
  DDP: {ISTRUE: False, RANK: 0}
  WARMUP: {IFNOT: True, TYPE: 'step', EPOCH: 4, WARM_POLICY: 'step', KWARGS: {start_lr: 0.002, end_lr: 0.005, step: 1}}
  LR: {TYPE: 'log', KWARGS: {start_lr: 0.005, end_lr: 0.00001}}
  LAYERS_LR: 0.1
  BASE_LR: 0.005
  UNFIX_EPOCH: 10
  UNFIX_POLICY: 'log'
  MOMENTUM: 0.9
  WEIGHT_DECAY: 0.0001
  TRAINABLE_LAYER: ['layer1', 'layer2', 'layer3']
  DATASET:
    WHICH_USE: ['VID', 'GOT10K']
    AUG:
      EXEMPLAR: {SHIFT: 5, SCALE: 0.05}
      SEARCH: {SHIFTs: 64, SCALEs: 0.2}
      COMMON: {COLOR: 1, FLIP: 0, BLUR: 0, ROTATION: 0, LABELSMOOTH: False, MIXUP: 0, GRAY: 0, CUTOUT: 0, NEG: 0.25}
    CONFIG:
      VID: {PATH: './data/vid/crop511', ANNOTATION: './data/vid/train.json', RANGE: 90, USE: 100000}
      GOT10K: {PATH: './data/got10k/crop511', ANNOTATION: './data/got10k/all.json', RANGE: 100, USE: 200000}
TEST:
  ISTRUE: False
  THREADS: 16
  DATA: 'TRACKINGNET'
  START_EPOCH: 30
  END_EPOCH: 50
  EPOCH_TEST: True
  RESUME: 'snapshot/checkpoint_e36.pth'
  HYPERS:
    OTB2015: {penalty_k: 0.109, lr: 0.519, window_influence: 0.2, small_sz: 271, big_sz: 287}
    GOT10KTEST: {penalty_k: 0.023, lr: 0.8, window_influence: 0.16, small_sz: 255, big_sz: 287}
TUNE: {ISTRUE: False, DATA: 'GOT10KTEST', RESUME: 'snapshot/checkpoint_e36.pth', TRIAL_PER_GPU: 4}
"""


def test_a_sots_file_loads_as_it_is(tmp_path: Path) -> None:
    cfg = load_config(put(tmp_path / "Ocean.yaml", SOTS), overrides=["TRAIN.BATCH=16"])
    assert (cfg.NAME, cfg.GPUS, cfg.WORKERS, cfg.PRINT_FREQ) == ("OCEAN", "0,1,2,3", 7, 20)
    assert (cfg.OUTPUT_DIR, cfg.CHECKPOINT_DIR) == ("logs_sots", "snap")
    train, data = cfg.TRAIN, cfg.DATASET
    assert (train.MODEL, train.ALIGN, train.CHANNELS, train.TOWERNUM) == ("Ocean", False, 192, 3)
    assert (train.BATCH, train.CLIP_GRAD, train.WHICH_USE, train.PRETRAIN) == (
        16, 10.0, ["VID", "GOT10K"], "resnet50dilated.model")
    assert (train.WARMUP.EPOCH, train.WARMUP.KWARGS.start_lr, train.LR.KWARGS.end_lr) == (4, 0.002, 1e-5)
    assert (data.SHIFT, data.SCALEs, data.NEGATIVE) == (5, 0.2, 0.25)
    assert (data.SOURCES["VID"].RANGE, data.SOURCES["GOT10K"].ANNOTATION) == (90, "./data/got10k/all.json")
    assert (cfg.TEST.DATA, cfg.TEST.START_EPOCH, cfg.TUNE.DATA) == ("TRACKINGNET", 30, "GOT10KTEST")


@pytest.mark.parametrize(("place", "value", "message"), [
    (("MODEL", "NAME"), "AutoMatch", "MODEL.NAME is 'AutoMatch'; of SOTS' models Ocean alone can be read here"),
    (("TRAIN", "REG_WEIGHT"), 1.2, "TRAIN.REG_WEIGHT is 1.2; .* with 1"),
    (("TRAIN", "BACTH"), 8, "TRAIN.BACTH: unknown key; did you mean BATCH"),
    (("TRAIN", "CLIP_GRAD"), "much", "TRAIN.CLIP_GRAD is 'much'; input should be a valid number"),
    (("TRAIN", "DATASET"), {"AUG": {"SEARCH": {"SHIFT": 4}}, "CONFIG": {"SHIFT": {"PATH": "a"}}},
     "TRAIN.DATASET.CONFIG.SHIFT.PATH and another key both stand for DATASET.SHIFT here"),
])
def test_what_a_sots_file_holds_beyond_that_is_refused(
    tmp_path: Path, place: tuple[str, str], value: object, message: str
) -> None:
    tree = yaml.safe_load(SOTS)
    tree[place[0]][place[1]] = value
    with pytest.raises(UserError, match=message):
        load_config(put(tmp_path / "Ocean.yaml", yaml.safe_dump(tree)))
    with pytest.raises(UserError, match=r"an alias .* holds itself"):
        load_config(put(tmp_path / "Ocean.yaml", "COMMON: &a {b: *a}\nMODEL: {}\n"))


def test_its_settings_of_tracking_are_read_by_data_set(tmp_path: Path) -> None:
    path = put(tmp_path / "Ocean.yaml", SOTS)
    assert load_tracker_params(path, dataset="GOT10K") == TrackerParams(0.023, 0.8, 0.16, 255, 287)
    assert load_tracker_params(path, dataset="otb-2015").penalty_k == 0.109
    with pytest.raises(UserError, match="holds settings for OTB2015, GOT10KTEST, none for UAV123"):
        load_tracker_params(path, dataset="UAV123")


def test_its_checkpoint_fills_the_same_model(tmp_path: Path) -> None:
    source, target = small_model(), small_model()
    for parameter in target.parameters():
        torch.nn.init.zeros_(parameter)
    names = {"features.features.": "module.backbone.", "connect_model.": "module.head.", "neck.": "module.neck."}
    foreign = {front + name.removeprefix(ours): tensor for name, tensor in source.state_dict().items()
               for ours, front in names.items() if name.startswith(ours)}
    report = load_weights(target, foreign, source="ocean_sots.pth")
    assert same_weights(source, target)
    assert "prefix module. and backbone. and head. removed" in str(report)
    foreign["module.head.classification.LTM.weight"] = torch.zeros(1)  # AutoMatch's
    refused = r"weights of another architecture \(.* fit\); unexpected: connect_model.classification"
    with pytest.raises(UserError, match=refused):
        load_weights(target, foreign, source="automatch.pth")


def write_tracker(folder: Path, *names: str, boxes: int = 5, separator: str = "\t") -> None:
    for name in names:
        write_rows(folder / f"{name}.txt", boxes_of(boxes), separator=separator)
        for beside in ("time", "all_boxes", "object_presence_scores"):
            put(folder / f"{name}_{beside}.txt", "0.01\n" * boxes)


@pytest.mark.parametrize("place", ["", "otb", "OTB2015"])
def test_results_of_pytracking_and_ostrack(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    """`<tracker>/<parameters>/[<data set>/]<sequence>.txt`, tabs between, with times and scores beside the boxes."""
    make_sequence(tmp_path / "OTB2015", "Deer")
    write_tracker(tmp_path / "tracking_results" / "ostrack" / "vitb_256" / place, "Deer")
    write_tracker(tmp_path / "tracking_results" / "ostrack" / "vitb_256" / "lasot", "airplane-1", boxes=7)
    command = ["--dataset_dir", str(tmp_path / "OTB2015"), "--dataset", "OTB2015", "--allow-missing",
               "--tracker_result_dir", str(tmp_path / "tracking_results" / "ostrack")]
    assert call("eval", command) == 0
    row = next(line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("vitb_256"))
    assert (row[2], row[4]) == ("1.000", "1/100")


def test_uav_and_nfs_by_their_prefix_and_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path / "UAV123" / "anno" / "UAV123" / "bike1.txt", rows(BOXES))
    put(tmp_path / "NFS" / "Gymnastics" / "30" / "Gymnastics.txt", rows(BOXES))
    for data, folder in (("UAV123", "uav"), ("NFS30", "nfs")):
        name = "uav_bike1" if folder == "uav" else "nfs_Gymnastics"
        put(tmp_path / "results" / "mixformer" / folder / f"{name}.txt", rows(BOXES, "\t"))
        put(tmp_path / "results" / "mixformer" / folder / f"{name}_time.txt", "1\n1\n1\n")
        assert call("eval", ["--dataset_dir", str(tmp_path), "--dataset", data, "--allow-missing",
                             "--tracker_result_dir", str(tmp_path / "results")]) == 0
        row = next(line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("mixformer"))
        assert row[2] == "1.000"


def test_times_beside_the_boxes_are_no_tracker(tmp_path: Path) -> None:
    make_sequence(tmp_path / "OTB2015", "Deer")
    write_tracker(tmp_path / "dimp50", "Deer")
    with pytest.raises(UserError, match="dimp50: no tracker's folder in it"):
        call("eval", ["--dataset_dir", str(tmp_path / "OTB2015"), "--dataset", "OTB2015", "--tracker_result_dir",
                      str(tmp_path / "dimp50")])


def test_results_in_a_folder_for_each_sequence(tmp_path: Path) -> None:
    name = "GOT-10k_Val_000001"
    for file, tracker in ((f"{name}.txt", "SOTS"), (f"{name}_001.txt", "pysot")):
        put(tmp_path / tracker / name / file, rows(BOXES))
        put(tmp_path / tracker / name / f"{name}_time.txt", "0.02\n" * 3)
        assert find_results(tmp_path / tracker, (name,)) == {name: tmp_path / tracker / name / file}


def test_pysots_results_on_vot_lt(tmp_path: Path) -> None:
    benchmark = load_benchmark("VOT2018-LT", vot_lt(tmp_path, ["nan"] * 4), images=False)
    folder = tmp_path / "result" / "SiamRPN" / "longterm" / "bike1"
    file = put(folder / "bike1_001.txt", "1\n" + rows(BOXES[1:]))
    put(folder / "bike1_001_confidence.value", "\n0.9\n0.1\n")
    scores = score_results(benchmark, tmp_path / "result" / "SiamRPN", allow_missing=True)
    assert scores.values["precision"] == pytest.approx(2 / 3)
    put(file, rows(BOXES[:1]) + "1\n" + rows(BOXES[2:]))
    with pytest.raises(UserError, match="line 2: '1' is not a box"):
        read_result_rows(file)
