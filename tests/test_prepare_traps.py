"""Every trap in every format of raw data: what is of use becomes a crop, what is not is left out and counted."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import pytest
import yaml
from raw_trees import picture, write_cmyk, write_picture

from lib.config_file import load_config
from lib.datasets.dataset import build_dataset
from lib.datasets.prepare.__main__ import main

Box = tuple[float, float, float, float]
GOOD: Box = (20, 30, 60, 70)
OUTSIDE: Box = (300, 20, 340, 60)
EMPTY: Box = (20, 30, 20, 70)


class Scene(NamedTuple):
    """One frame, or one still: an object's box, x1, y1, x2, y2 from 0, and what is wrong with it or its picture."""

    box: Box = GOOD
    picture: str = ""  # "gray", "cmyk", "cut" or "missing"
    absent: bool = False


# Frame k of the object, whatever the format. Stills and VID cannot call an object absent: they have no box then.
SCENES = (Scene(), Scene(picture="gray"), Scene(picture="cmyk"), Scene(picture="cut"), Scene(picture="missing"),
          Scene(box=OUTSIDE), Scene(box=EMPTY), Scene(absent=True), Scene())
KEPT = (0, 1, 2, 8)
DROPPED = {"picture unreadable": 1, "picture missing": 1, "outside the picture": 1, "no area": 1}
NAME = "Größe 日本"
SECOND: Box = (70, 40, 110, 90)  # a second object on frame 0, where the format has several


def paint(path: Path, scene: Scene, number: int) -> None:
    """Write a scene's picture."""
    if scene.picture == "cmyk":
        write_cmyk(path)
    elif scene.picture != "missing":
        write_picture(path, picture(seed=number), damage=scene.picture)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def xml(boxes: list[Box], *, track: bool, origin: int = 0) -> str:
    entries = "".join(
        f"<object>{f'<trackid>{k}</trackid>' * track}<name>n</name><bndbox><xmin>{x1 + origin}</xmin>"
        f"<ymin>{y1 + origin}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox>"
        f"<occluded>0</occluded><generated>0</generated></object>"
        for k, (x1, y1, x2, y2) in enumerate(boxes))
    return f"<annotation><size><width>160</width><height>120</height></size>{entries}</annotation>"


def objects(k: int, scene: Scene) -> list[Box]:
    return [] if scene.absent else [scene.box, SECOND] if k == 0 else [scene.box]


def vid(root: Path) -> None:
    for k, scene in enumerate(SCENES):
        write(root / f"Annotations/VID/train/{NAME}/v/{k:06d}.xml", xml(objects(k, scene), track=True))
        paint(root / f"Data/VID/train/{NAME}/v/{k:06d}.JPEG", scene, k)


def det(root: Path) -> None:
    for k, scene in enumerate(SCENES):
        write(root / f"Annotations/DET/train/{NAME}/{k}.xml", xml(objects(k, scene), track=False))
        paint(root / f"Data/DET/train/{NAME}/{k}.JPEG", scene, k)


def voc(root: Path) -> None:
    for k, scene in enumerate(SCENES):
        write(root / f"Annotations/{NAME}{k}.xml", xml(objects(k, scene), track=False, origin=1))
        paint(root / f"JPEGImages/{NAME}{k}.jpg", scene, k)


def coco(root: Path) -> None:
    images, annotations = [], []
    for k, scene in enumerate(SCENES):
        images.append({"id": k, "file_name": f"{NAME}{k}.jpg", "width": 160, "height": 120})
        annotations += [{"image_id": k, "bbox": [x1, y1, x2 - x1, y2 - y1], "iscrowd": 0}
                        for x1, y1, x2, y2 in objects(k, scene)]
        paint(root / f"train2017/{NAME}{k}.jpg", scene, k)
    write(root / "annotations/instances_train2017.json", json.dumps({"images": images, "annotations": annotations}))


def rows(*, origin: int = 0) -> str:
    return "".join(f"{x1 + origin},{y1 + origin},{x2 - x1},{y2 - y1}\n" for (x1, y1, x2, y2), _, _ in SCENES)


def got10k(root: Path) -> None:
    folder = root / "train" / NAME
    write(folder / "groundtruth.txt", rows())
    write(folder / "absence.label", "".join(f"{int(scene.absent)}\n" for scene in SCENES))
    write(folder / "cover.label", "8\n" * len(SCENES))
    for k, scene in enumerate(SCENES):
        paint(folder / f"{k + 1:08d}.jpg", scene, k)


def lasot(root: Path) -> None:
    folder = root / "cat" / f"cat-{NAME}"
    write(root / "training_set.txt", f"cat-{NAME}\n")
    write(folder / "groundtruth.txt", rows(origin=1))
    write(folder / "full_occlusion.txt", ",".join("0" * len(SCENES)))
    write(folder / "out_of_view.txt", ",".join(str(int(scene.absent)) for scene in SCENES))
    for k, scene in enumerate(SCENES):
        paint(folder / "img" / f"{k + 1:08d}.jpg", scene, k)


def trackingnet(root: Path) -> None:
    lines = rows().splitlines()
    lines[7] = "0,0,0,0"  # TrackingNet has no other way to call an object absent
    write(root / "TRAIN_3" / "anno" / f"{NAME}.txt", "\n".join(lines) + "\n")
    for k, scene in enumerate(SCENES):
        paint(root / "TRAIN_3" / "frames" / NAME / f"{k}.jpg", scene, k)


def videos(root: Path) -> None:
    lines = rows().splitlines()
    lines[7] = "NaN,NaN,NaN,NaN"
    write(root / NAME / "groundtruth.txt", "\n".join(lines) + "\n")
    for k, scene in enumerate(SCENES):
        paint(root / NAME / "img" / f"{k:04d}.jpg", scene, k)


def ytb(root: Path) -> None:
    lines = []
    for k, scene in enumerate(SCENES):
        for track, (x1, y1, x2, y2) in enumerate(objects(k, scene) or [GOOD]):
            presence = "absent" if scene.absent else "present"
            lines.append(f"{NAME},{1000 * k},3,bird,{track},{presence},{x1 / 160},{x2 / 160},{y1 / 120},{y2 / 120}")
            paint(root / "yt_bb_detection_train/3" / f"{NAME}_{1000 * k}_3_{track}.jpg", scene, k)
    write(root / "yt_bb_detection_train.csv", "\n".join(lines) + "\n")


class Format(NamedTuple):
    """A format: what writes its tree, its first frame's number, whether it calls objects absent, has several."""

    tree: Callable[[Path], None]
    first: int | None  # None: stills
    absent: bool
    several: bool


FORMATS = {
    "vid": Format(vid, 0, False, True), "det": Format(det, None, False, True), "voc": Format(voc, None, False, True),
    "coco": Format(coco, None, False, True), "ytb": Format(ytb, 0, True, True),
    "got10k": Format(got10k, 1, True, False), "lasot": Format(lasot, 1, True, False),
    "trackingnet": Format(trackingnet, 0, True, False), "videos": Format(videos, 0, True, False),
}


@pytest.mark.parametrize("source", FORMATS)
def test_every_trap(source, tmp_path, capsys):
    form = FORMATS[source]
    form.tree(tmp_path / "raw")
    out = tmp_path / "data"
    assert main([source, "--root", str(tmp_path / "raw"), "--out", str(out), "--jobs", "1"]) == 0
    index = json.loads((out / "train.json").read_text(encoding="utf-8"))
    boxes = {(video, track, int(frame)): box for video, tracks in index.items() for track, frames in tracks.items()
             for frame, box in frames.items()}
    first = [box for (_, track, _), box in sorted(boxes.items()) if track == "00"]
    assert first == [pytest.approx(GOOD, abs=0.02)] * len(KEPT)
    if form.first is None:
        assert sorted(int(video[-1]) for video in index) == list(KEPT)
    else:
        (tracks,) = index.values()
        assert sorted(map(int, tracks["00"])) == [form.first + k for k in KEPT]
    assert all(NAME in video for video in index)
    second = [box for (_, track, _), box in boxes.items() if track == "01"]
    assert second == ([pytest.approx(SECOND, abs=0.02)] if form.several else [])
    dropped = json.loads((out / "manifest.json").read_text(encoding="utf-8"))["dropped"]
    assert dropped == {**DROPPED, **({"absent": 1} if form.absent else {})}
    for video, track, frame in boxes:
        crop = cv2.imread(str(out / "crop511" / video / f"{frame:06d}.{track}.x.jpg"))
        assert crop is not None
        assert crop.shape == (511, 511, 3)
    assert "cut short" in capsys.readouterr().out, "the broken picture is named"


@pytest.mark.parametrize("source", ["got10k", "lasot", "ytb"])
def test_absent_objects_can_be_kept(source, tmp_path):
    FORMATS[source].tree(tmp_path / "raw")
    assert main([source, "--root", str(tmp_path / "raw"), "--out", str(tmp_path / "data"), "--jobs", "1", "--no-crops",
                 "--absent", "keep"]) == 0
    (tracks,) = json.loads((tmp_path / "data" / "train.json").read_text(encoding="utf-8")).values()
    assert sorted(map(int, tracks["00"])) == [FORMATS[source].first + k for k in (*KEPT[:-1], 7, KEPT[-1])]
    assert json.loads((tmp_path / "data" / "manifest.json").read_text(encoding="utf-8"))["dropped"] == DROPPED
    assert cv2.imread(str(tmp_path / "data" / "preview.png")) is not None, "the sheet needs no crops"


def test_the_lines_that_prepare_prints_are_a_training_with_all_sources(tmp_path, capsys):
    lines = ""
    for source, form in FORMATS.items():
        form.tree(tmp_path / source)
        raw = ["--no-crops"] if source in ("voc", "lasot") else []
        out = tmp_path / "data: all" / source
        main([source, "--root", str(tmp_path / source), "--out", str(out), "--jobs", "1", *raw])
        lines += capsys.readouterr().out.partition("DATASET of the training's YAML:\n")[2].partition("to train")[0]
    sources = yaml.safe_load(lines)
    assert set(sources) == {source.upper() for source in FORMATS}
    path = tmp_path / "train.yaml"
    path.write_text(f"OCEAN:\n  TRAIN: {{WHICH_USE: [{', '.join(sources)}]}}\n  DATASET:\n{lines}", encoding="utf-8")
    dataset = build_dataset(load_config(path))
    assert len(dataset) == sum(source["USE"] for source in sources.values())
    seen = {dataset.mixture[n].source for n in range(len(dataset)) if dataset[n].search.shape == (3, 255, 255)}
    assert seen == set(range(len(FORMATS))), "a pair of every source"
