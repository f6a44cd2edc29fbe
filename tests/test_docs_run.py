"""The commands of README and docs, run word for word on small stand-ins: a tiny network, two short videos, raw sets.

Those that name GPUs must be refused for the lack of them alone. What needs a camera, a stream, the official vot-toolkit
or the real training sample is parsed only (`test_docs`); exports run in `test_export`.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import pytest
import torch
import yaml
from raw_trees import picture, write_picture
from test_docs import OURS, PLACEHOLDER
from test_prepare_sources import vid_tree, ytb_tree
from train_helpers import tiny_yaml
from vot_trees import make_video, square

from lib import commands
from lib.benchmarks.layouts import LAYOUTS
from lib.checkpoint import save_checkpoint
from lib.config_file import load_config
from lib.datasets.synthetic import write_otb
from lib.errors import UserError
from lib.models.models import build_model

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", *(f"docs/{page}.md" for page in ("USAGE", "DATA", "SWEEP", "TOOLS", "EXPORT", "VOT", "MODELS",
                                                 "FIGURES", "EXPERIMENTS")))
ORDER = ("prepare", "prepare check", "prepare pack", "train", "tune", "test", "sweep", "eval", "compare", "track",
         "onekey", "release")
SHORTER = {"tune": ["--trials", "4"], "onekey": ["--trials", "4"], "compare": ["--frames", "1"]}
# What stands for something of the reader's own.
STAND_IN = {"CKPT": "snapshot/checkpoint_e20.pth", "CKPT_ONLINE": "online.pth",
            "../shared/data/OTB_sample": "dataset/OTB2015",
            "../shared/data/raw_results/OTB2015": "raw_results/OTB2015", "MY_VIDEOS": "dataset/OTB2015"}
# What names something that is not here.
ELSEWHERE = re.compile(r"rtsp:|--show|train_sample|int8|Skiing|NAME|[{$]|held_out|Nano|data/syn|snapshot/OceanLite|"
                       r"snapshot/pretrain|^VIDEO")
NAMES = ("Deer", "Man")


def is_run(page: str, name: str, line: str) -> bool:
    """Return whether a shown command is run here."""
    return page in PAGES and name in ORDER and not ELSEWHERE.search(line) and line not in ("", "VIDEO")


LINES = sorted({(ORDER.index(name), name, line.partition("  #")[0].strip()) for page, name, line in OURS
                if is_run(page, name, line)})


def raw_sets(root: Path) -> None:
    """Write small raw sets where the commands expect them."""
    vid_tree(root / "ILSVRC2015")
    folder = root / "ILSVRC"
    for split in ("Annotations", "Data"):
        shutil.copytree(root / "ILSVRC2015" / split / "VID", folder / split / "DET")
    ytb_tree(root / "youtube_bb")
    write_picture(root / "coco" / "train2017" / "1.jpg")
    (root / "coco" / "annotations").mkdir()
    annotation = {"images": [{"id": 1, "file_name": "1.jpg", "width": 160, "height": 120}],
                  "annotations": [{"id": 1, "image_id": 1, "bbox": [30, 20, 50, 40], "category_id": 1}]}
    (root / "coco" / "annotations" / "instances_train2017.json").write_text(json.dumps(annotation))
    video = root / "got10k" / "train" / "GOT-10k_Train_000001"
    for number in (1, 2, 3):
        write_picture(video / f"{number:08d}.jpg", picture(seed=number))
    (video / "groundtruth.txt").write_text("30,20,50,40\n31,20,50,40\n32,20,50,40\n")
    (root / "got10k" / "train" / "list.txt").write_text("GOT-10k_Train_000001\n")


def benchmark_sets(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write two short rendered videos as OTB2015, LASOT and GOT10K, which then have no others."""
    made = write_otb(root / "rendered", num=2, length=4, seed=3)
    for name, made_name in zip(NAMES, made, strict=True):
        shutil.copytree(root / "rendered" / made_name, root / "dataset" / "OTB2015" / name)
    monkeypatch.setitem(LAYOUTS, "OTB2015", replace(LAYOUTS["OTB2015"], names=NAMES))
    truth = root / "rendered" / made[0]
    lasot = root / "dataset" / "LASOT" / "airplane" / "airplane-1"
    shutil.copytree(truth, lasot)
    (lasot / "groundtruth_rect.txt").rename(lasot / "groundtruth.txt")
    for flag in ("full_occlusion.txt", "out_of_view.txt"):
        (lasot / flag).write_text("0,0,0,0\n")
    got = root / "dataset" / "GOT10K" / "test" / "GOT-10k_Test_000001"
    shutil.copytree(truth / "img", got)
    (got / "groundtruth.txt").write_text((truth / "groundtruth_rect.txt").read_text().splitlines()[0] + "\n")
    make_video(root / "dataset" / "VOT2018", "bag", [square(40 + step, 30) for step in range(4)], images=True)
    (root / "dataset" / "VOT2018" / "list.txt").write_text("bag\n")
    for name, sequence in (("VOT2018", "bag"), ("LASOT", "airplane-1"), ("GOT10K", "GOT-10k_Test_000001")):
        monkeypatch.setitem(LAYOUTS, name, replace(LAYOUTS[name], names=(sequence,)))


def own_videos(root: Path) -> None:
    """Write a video and a folder of frames that hold the box 120, 80, 60, 40."""
    (root / "frames").mkdir()
    writer = cv2.VideoWriter(str(root / "clip.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 10, (320, 240))
    for number in range(3):
        frame = picture(320, 240, seed=number)
        writer.write(frame)
        cv2.imwrite(str(root / "frames" / f"{number}.jpg"), frame)
    writer.release()


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a reader who has downloaded everything; the YAML files are of tiny networks."""
    raw_sets(tmp_path / "RAW")
    benchmark_sets(tmp_path, monkeypatch)
    own_videos(tmp_path)
    small = yaml.safe_load(tiny_yaml(tmp_path, END_EPOCH=2, BATCH=2, ALIGN=True).read_text())
    small["OCEAN"] |= {"OUTPUT_DIR": "logs", "CHECKPOINT_DIR": "snapshot"}
    small["OCEAN"]["DATASET"]["SYN"]["USE"] = 2
    (tmp_path / "experiments" / "train").mkdir(parents=True)
    for path in sorted((ROOT / "experiments" / "train").glob("*.yaml")):
        if path.stem != "Ocean":
            small["OCEAN"]["CHECKPOINT_DIR"] = f"snapshot/{path.stem}"
        small["OCEAN"]["TRAIN"]["ONLINE"] = "raw" if path.stem.endswith("online") else False
        small["OCEAN"]["TRAIN"]["PRESENCE"] = path.stem.endswith("presence")
        (tmp_path / "experiments" / "train" / path.name).write_text(yaml.safe_dump(small))
    (tmp_path / "my_file.py").write_text("class MyTracker:\n    def init(self, image, box):\n        self.box = box\n"
                                         "    def track(self, image):\n        return self.box\n")
    (tmp_path / "pretrain").mkdir()
    model = build_model(**load_config(tmp_path / "experiments" / "train" / "Ocean.yaml").model_options())
    for name in ("resnet50.pth", "vit_b_16.pth", "efficientnet-lite0-57934424.pth"):
        torch.save(model.features.state_dict(), tmp_path / "pretrain" / name)
    online = build_model(**model.spec, online=True)
    save_checkpoint(tmp_path / "online.pth", {"state_dict": online.state_dict(), "model": online.spec})
    published = tmp_path / "raw_results" / "OTB2015"
    for tracker in ("SiamBAN", "MDNet", "KCF", "STRUCK"):
        for name in NAMES:
            (published / tracker).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(tmp_path / "dataset" / "OTB2015" / name / "groundtruth_rect.txt",
                            published / tracker / f"{name}.txt")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def words_of(line: str, folder: Path) -> list[str]:
    """Return the words of a command line, with what stands for something of the reader's own filled in."""
    words = [STAND_IN.get(word, word) for word in shlex.split(PLACEHOLDER.sub("", line), comments=True)]
    return [str(next(folder.glob(word.replace("...", "*")))) if "..." in word else word for word in words]


def test_every_command_that_the_pages_show_works(reader: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPLAY", "")
    monkeypatch.setattr("lib.tools.export.WEIGHTS_ROOT", reader / "weights")  # where release writes
    for _, name, line in LINES:
        if name == "prepare pack" and not (reader / words_of(line, reader)[0]).exists():
            shutil.copytree(reader / "data" / "coco", reader / words_of(line, reader)[0])
        words = [*words_of(line, reader), *SHORTER.get(name, [])]
        if "--gpus" in line and not torch.cuda.is_available():
            with pytest.raises(UserError, match="no CUDA device 0, 1, 2"):
                commands.call(name, words)
            continue
        assert commands.call(name, words) == 0, f"{name} {line}"
        if name == "train" and not (reader / "other.pth").exists():  # checkpoints that later commands name
            (reader / "snapshot" / "a").mkdir()
            for copy in ("snapshot/checkpoint_e20.pth", "snapshot/a/checkpoint_e10.pth", "other.pth"):
                shutil.copyfile(reader / "snapshot" / "checkpoint_e2.pth", reader / copy)
