"""The configuration: TracKit's file loads as it is, ours shows every key, and a mistake names file and key."""

import re
from pathlib import Path

import pytest
import yaml

from lib.config import Config
from lib.config_file import load_config
from lib.errors import UserError
from lib.files import read_yaml
from lib.tracker.params import TrackerParams, find_tracker_params, load_tracker_params

ROOT = Path(__file__).resolve().parents[1]

TRACKIT = """
OCEAN:
    GPUS: '0,1,2,3,4,5,6,7'
    PRINT_FREQ: 10
    WORKERS: 32
    OUTPUT_DIR: 'logs'
    CHECKPOINT_DIR: 'snapshot'
    TRAIN:
        ISTRUE: True
        MODEL: "Ocean"
        ALIGN: True
        START_EPOCH: 0
        END_EPOCH: 50
        TEMPLATE_SIZE: 127
        SEARCH_SIZE: 255
        STRIDE: 8
        BATCH: 32
        RESUME: False
        PRETRAIN: 'pretrain.model'
        LR_POLICY: 'log'
        WARMUP: {IFNOT: True, TYPE: 'step', EPOCH: 5, KWARGS: {start_lr: 0.001, end_lr: 0.005, step: 1}}
        LR: {TYPE: 'log', KWARGS: {start_lr: 0.005, end_lr: 0.00001}}
        LAYERS_LR: 0.1
        BASE_LR: 0.005
        UNFIX_EPOCH: 10
        WARM_POLICY: 'step'
        UNFIX_POLICY: 'log'
        MOMENTUM: 0.9
        WEIGHT_DECAY: 0.0001
        TRAINABLE_LAYER: ['layer1', 'layer2', 'layer3']
        WHICH_USE: ['YTB', 'VID', 'COCO', 'DET', 'GOT10K']
    TEST: {ISTRUE: False, THREADS: 16, DATA: 'VOT2019', START_EPOCH: 30, END_EPOCH: 50, RGBTSPLIT: None}
    TUNE: {ISTRUE: False, DATA: 'VOT2019', METHOD: 'TPE', RGBTSPLT: None}
    DATASET:
        SHIFT: 4
        SCALE: 0.05
        SHIFTs: 64
        SCALEs: 0.18
        COLOR: 1
        FLIP: 0
        BLUR: 0
        ROTATION: 0
        LABELSMOOTH: False
        MIXUP: 0
        GRAY: 0
        CUTOUT: 0
        VID: {PATH: '/data/vid/crop511', ANNOTATION: '/data/vid/train.json', RANGE: 100, USE: 110000}
        YTB: {PATH: '/data/y2b/crop511', ANNOTATION: '/data/y2b/train.json', RANGE: 3, USE: 210000}
        COCO: {PATH: '/data/coco/crop511', ANNOTATION: '/data/coco/train2017.json', RANGE: 1, USE: 60000}
        DET: {PATH: '/data/det/crop511', ANNOTATION: '/data/det/train.json', RANGE: 100, USE: 60000}
        GOT10K: {PATH: '/data/got10k/crop511', ANNOTATION: '/data/got10k/train.json', RANGE: 100, USE: 160000}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "x.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_trackit_file_loads_as_it_is(tmp_path: Path) -> None:
    cfg = load_config(write(tmp_path, TRACKIT))
    assert cfg.TRAIN.ALIGN is True
    assert cfg.gpu_numbers() == tuple(range(8))
    assert cfg.DATASET.SOURCES["YTB"].RANGE == 3
    assert sum(cfg.DATASET.SOURCES[name].USE for name in cfg.TRAIN.WHICH_USE) == 600_000


def test_ocean_yaml_equals_the_defaults_and_shows_and_explains_every_key() -> None:
    path = ROOT / "experiments" / "train" / "Ocean.yaml"
    assert load_config(path) == Config()

    def keys(tree: dict) -> set[str]:
        below = (keys(v) for k, v in tree.items() if isinstance(v, dict) and k != "KWARGS")
        return set(tree).union(*below) if tree else set()

    assert keys(read_yaml(path)) == keys(Config().as_dict())
    for line in path.read_text(encoding="utf-8").splitlines():
        if re.match(r"^    [A-Z]+s?: [^{]*$", line) and "START_EPOCH" not in line and "END_EPOCH" not in line:
            assert "#" in line or line.strip() in ("ISTRUE: False", "METHOD: 'TPE'"), f"no comment: {line}"


def test_every_experiment_loads_and_survives_a_round_trip(tmp_path: Path) -> None:
    paths = sorted((ROOT / "experiments" / "train").glob("*.yaml"))
    assert paths
    for path in paths:
        cfg = load_config(path)
        assert load_config(write(tmp_path, yaml.safe_dump(cfg.as_dict()))) == cfg


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("TRAIN.BATHC=3", r"OCEAN\.TRAIN\.BATHC: unknown key; did you mean BATCH\?"),
        ("OCEAN.TRAIN.BATCH=x", r"OCEAN\.TRAIN\.BATCH is 'x'; .*integer"),
        ("TRAIN.BATCH=0", r"TRAIN\.BATCH is 0; .*greater than or equal to 1"),
        ("TRAIN.BATCH=True", r"TRAIN\.BATCH is True"),
        ("TRAIN.BASE_LR=.inf", r"TRAIN\.BASE_LR is inf"),
        ("DATASET.VID.RANGES=3", r"OCEAN\.DATASET\.VID\.RANGES: unknown key; did you mean RANGE\?"),
        ("DATASET.SHIFTT=3", r"DATASET\.SHIFTT: unknown key; did you mean SHIFT"),
        ("DATASET.MIXUP=1", r"DATASET\.MIXUP is 1; input should be 0"),
        ("TRAIN.WHICH_USE=[CCO]", r"WHICH_USE names 'CCO'.*did you mean COCO"),
        ("TRAIN.RESUME=True", r"TRAIN\.RESUME is True; expected False or a path"),
        ("GPUS='0,0'", r"GPUS is '0,0'; expected different device numbers"),
        ("TRAIN.SEARCH_SIZE=260", r"SEARCH_SIZE is 260; .*255, 271 or 287"),
        ("TRAIN.START_EPOCH=30", r"START_EPOCH 30 is not below END_EPOCH 20"),
        ("TRAIN.LR.KWARGS=3", r"LR\.KWARGS"),
        ("TRAIN", r"expected KEY=VALUE"),
        ("OUTPUT_DIR=123", r"OUTPUT_DIR is 123; .*string.*in quotes"),
    ],
)
def test_a_mistake_names_the_file_and_the_key(tmp_path: Path, override: str, expected: str) -> None:
    path = write(tmp_path, "OCEAN:\n  PRINT_FREQ: 5\n")
    with pytest.raises(UserError, match=expected) as caught:
        load_config(path, overrides=[override])
    assert "\n" not in str(caught.value)
    assert "x.yaml" in str(caught.value) or override in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "empty"),
        ("OCEAN: [", "not usable YAML at line 1"),
        ("OCEAN: {}\nSIAM: {}\n", "one top-level model name"),
        ("OCEAN:\n  GPUS: '0'\n  GPUS: '1'\n", "stands twice"),
        ("OCEAN: !!python/object/apply:os.system ['true']", "not usable YAML"),
        ("OCEAN: {TRAIN: " + "[" * 5000, "not usable YAML"),
        ("\x00", "not usable YAML"),
    ],
)
def test_a_file_that_is_not_a_configuration_gets_one_line(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(UserError, match=expected) as caught:
        load_config(write(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_overrides_are_typed_as_yaml_is(tmp_path: Path) -> None:
    path = write(tmp_path, "OCEAN: {PRINT_FREQ: 5}")
    cfg = load_config(path, overrides=["OCEAN.TRAIN.BATCH=16", "TRAIN.LR.KWARGS.end_lr=1e-4", "TRAIN.RESUME=auto",
                                       "DATASET.MINE={FORMAT: synthetic, USE: 7}", "TRAIN.WHICH_USE=[MINE]"])
    assert (cfg.TRAIN.BATCH, cfg.TRAIN.LR.KWARGS.end_lr, cfg.TRAIN.RESUME) == (16, 1e-4, "auto")
    assert cfg.DATASET.SOURCES["MINE"].USE == 7
    assert cfg.PRINT_FREQ == 5


def test_a_folder_of_digits_or_called_by_a_date_is_a_folder(tmp_path: Path) -> None:
    path = write(tmp_path, "OCEAN:\n  OUTPUT_DIR: 000123\n  CHECKPOINT_DIR: 2026-11-27\n  TRAIN: {SEED: 10}\n")
    cfg = load_config(path, overrides=["DATASET.VID.PATH=0077"])
    assert (cfg.OUTPUT_DIR, cfg.CHECKPOINT_DIR, cfg.DATASET.SOURCES["VID"].PATH) == ("000123", "2026-11-27", "0077")
    assert cfg.TRAIN.SEED == 10


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.yaml: no such file"):
        load_config(tmp_path / "nowhere.yaml")


def test_tracker_parameters_come_from_their_file_or_say_that_they_do_not(tmp_path: Path) -> None:
    folder = tmp_path / "OTB2015"
    folder.mkdir()
    (folder / "Ocean.yaml").write_text("TEST: {penalty_k: 0.087, small_sz: 271}", encoding="utf-8")
    for name in ("OTB2013", "otb-2015", "OTB_100", "otb50"):  # as the VOT toolkit's command takes any spelling
        params, origin = find_tracker_params(name, root=tmp_path)
        assert (params.penalty_k, params.small_sz, params.lr) == (0.087, 271, 0.765)
        assert "OTB2015" in origin
    params, origin = find_tracker_params("NFS", root=tmp_path)
    assert params == TrackerParams()
    assert "default" in origin


def test_a_bad_tracker_file_names_the_key(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"TEST\.penalty: unknown key; did you mean penalty_k"):
        load_tracker_params(write(tmp_path, "TEST: {penalty: 0.1}"))
    with pytest.raises(UserError, match=r"TEST\.lr is 2"):
        load_tracker_params(write(tmp_path, "TEST: {lr: 2}"))


def test_merge_keys_bring_in_a_base_that_may_be_overridden(tmp_path: Path) -> None:
    cfg = load_config(write(tmp_path, """
OCEAN:
  DATASET:
    GOT10K: &base {PATH: a, ANNOTATION: a.json, RANGE: 7, USE: 5}
    SHIFT: 3
    LASOT: &longer
      <<: *base
      RANGE: 30
    MINE: {<<: [{WEIGHT: 2.0}, *longer], ANNOTATION: b.json}
"""))
    lasot, mine = cfg.DATASET.SOURCES["LASOT"], cfg.DATASET.SOURCES["MINE"]
    assert (lasot.PATH, lasot.RANGE, lasot.USE) == ("a", 30, 5)
    assert (mine.PATH, mine.ANNOTATION, mine.RANGE, mine.USE, mine.WEIGHT) == ("a", "b.json", 30, 5, 2.0)
    shared = write(tmp_path, "OCEAN: {DATASET: {A: &a {OPTIONS: {tracks: 3}}, B: {<<: *a}, C: *a}}")
    sources = load_config(shared, overrides=["DATASET.A.OPTIONS.tracks=5", "DATASET.C.USE=7"]).DATASET.SOURCES
    assert [sources[name].OPTIONS["tracks"] for name in "ABC"] == [5, 3, 3]
    assert [sources[name].USE for name in "ABC"] == [1, 1, 7]
    with pytest.raises(UserError, match="'RANGE' stands twice"):
        load_config(write(tmp_path, "OCEAN: {DATASET: {A: &a {USE: 1}, B: {<<: *a, RANGE: 1, RANGE: 2}}}"))


def test_tracker_files_with_a_block_for_each_data_set(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """TracKit's own form: the block of the data set counts, and nothing of the others."""
    path = write(tmp_path, "TEST:\n  OTB2015: {lr: 0.5, big_sz: 271}\n  VOT2019ON: {lr: 0.25, online_ratio: 0.6}\n"
                           "  VOT2018: {lr: 1}\n")
    for dataset, expected in (("OTB2015", TrackerParams(lr=0.5, big_sz=271)), ("vot2018", TrackerParams(lr=1.0)),
                              ("OTB2013", TrackerParams(lr=0.5, big_sz=271)), ("VOT2019ON", TrackerParams(lr=0.25)),
                              ("otb-100", TrackerParams(lr=0.5, big_sz=271)), ("VOT_2017", TrackerParams(lr=1.0))):
        assert load_tracker_params(path, dataset=dataset) == expected
    assert "TEST.VOT2019ON.online_ratio is not used" in caplog.text
    with pytest.raises(UserError, match="OTB2015, VOT2019ON, VOT2018, none for LASOT"):
        load_tracker_params(path, dataset="LASOT")
    with pytest.raises(UserError, match="none for this"):
        load_tracker_params(path)
    assert load_tracker_params(write(tmp_path, "TEST: {OTB100: {lr: 0.5}, LASOT: {lr: 1}}"),
                               dataset="OTB2015") == TrackerParams(lr=0.5)
    assert load_tracker_params(write(tmp_path, "TEST: {lr: 0.5, online_ratio: 1}")) == TrackerParams(lr=0.5)
    assert "TEST.online_ratio is not used" in caplog.text
    one = write(tmp_path, "TEST: {VOT2019: {lr: 0.25, lrr: 2}}")
    with pytest.raises(UserError, match=r"TEST\.VOT2019\.lrr: unknown key; did you mean lr"):
        load_tracker_params(one)
    with pytest.raises(UserError, match=r"TEST\.small_sz is 256; .*255, 271 or 287"):
        load_tracker_params(write(tmp_path, "TEST: {small_sz: 256}"))
