"""Each source's archive layout and annotation format, on a small tree with every trap in it."""

import json
import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from raw_trees import picture, write_cmyk, write_picture

from lib.datasets.index import load_index
from lib.datasets.prepare.__main__ import main
from lib.datasets.stores import picture_path
from lib.errors import UserError

Index = dict[str, dict[str, dict[str, list[float]]]]


def prepare(source: str, root: Path, *flags: str) -> tuple[Index, dict[str, int]]:
    """Return the index and what was left out, with every crop of the index on the disk."""
    out = root.parent / f"data_{source}_{len(list(root.parent.iterdir()))}"
    assert main([source, "--root", str(root), "--out", str(out), "--jobs", "1", *flags]) == 0
    index = json.loads((out / "train.json").read_text(encoding="utf-8"))
    for video, tracks in index.items():
        for track, frames in tracks.items():
            for frame in frames:
                assert (out / "crop511" / video / f"{frame}.{track}.x.jpg").is_file()
    assert load_index(out / "train.json").num_tracks == sum(map(len, index.values()))
    assert main(["check", str(out), "--jobs", "1"]) == 0
    return index, json.loads((out / "manifest.json").read_text(encoding="utf-8"))["dropped"]


def xml(*objects: str, filename: str = "x") -> str:
    return (f"<annotation><folder>f</folder><filename>{filename}</filename><size><width>160</width><height>120</height>"
            f"</size>{''.join(objects)}</annotation>")


def entry(box: tuple[object, ...], *, track: int | None = None, occluded: int = 0, generated: int = 0) -> str:
    x1, y1, x2, y2 = box
    trackid = "" if track is None else f"<trackid>{track}</trackid>"
    return (f"<object>{trackid}<name>n01</name><bndbox><xmax>{x2}</xmax><xmin>{x1}</xmin><ymax>{y2}</ymax>"
            f"<ymin>{y1}</ymin></bndbox><occluded>{occluded}</occluded><generated>{generated}</generated></object>")


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


GOOD = (20, 30, 60, 70)


def vid_tree(root: Path) -> None:
    snippet = "ILSVRC2015_VID_train_0000/ILSVRC2015_train_00000000"
    for frame, objects in enumerate((
        (entry(GOOD, track=0), entry((80, 20, 120, 50), track=1)),
        (entry(GOOD, track=0, occluded=1), entry((80, 20, 120, 50), track=1, generated=1)),
        (),  # nobody is there
        (entry((20, 30, 20, 70), track=0), entry((300, 20, 340, 50), track=1)),  # no width; outside
        (entry(("?", 30, 60, 70), track=0), entry(GOOD, track=1)),
        (entry(GOOD, track=0),),  # its picture is missing
        (entry(GOOD, track=0),),  # its picture is cut short
    )):
        write(root / "Annotations/VID/train" / snippet / f"{frame:06d}.xml", xml(*objects))
        if frame != 5:
            damage = "cut" if frame == 6 else "gray" if frame == 1 else ""
            write_picture(root / "Data/VID/train" / snippet / f"{frame:06d}.JPEG", damage=damage)
    write(root / "Annotations/VID/train/Größe/ILSVRC2015_train_1/000000.xml", "<annotation><object>")
    write(root / "Annotations/VID/train/Größe/ILSVRC2015_train_1/000007.xml", xml(entry(GOOD, track=3)))
    write_cmyk(root / "Data/VID/train/Größe/ILSVRC2015_train_1/000007.JPEG")


def test_vid(tmp_path, capsys):
    vid_tree(tmp_path / "raw")
    index, dropped = prepare("vid", tmp_path / "raw")
    video = index["train/ILSVRC2015_VID_train_0000/ILSVRC2015_train_00000000"]
    assert {track: sorted(map(int, frames)) for track, frames in video.items()} == {"00": [0, 1], "01": [0, 1, 4]}
    assert video["01"]["000000"] == [80, 20, 120, 50]
    assert index["train/Größe/ILSVRC2015_train_1"] == {"03": {"000007": [20, 30, 60, 70]}}
    assert dropped == {"no area": 1, "outside the picture": 1, "no box": 1, "picture missing": 1,
                       "picture unreadable": 1, "annotation unreadable": 1}
    printed = capsys.readouterr().out
    assert "000005.xml: no picture of this name" in printed
    assert "000006.JPEG: a JPEG that is cut short" in printed
    assert "000000.xml: not XML" in printed


def test_vid_without_occluded_and_generated_boxes(tmp_path):
    vid_tree(tmp_path / "raw")
    index, dropped = prepare("vid", tmp_path / "raw", "--occluded", "drop", "--generated", "drop")
    video = index["train/ILSVRC2015_VID_train_0000/ILSVRC2015_train_00000000"]
    assert {track: sorted(map(int, frames)) for track, frames in video.items()} == {"00": [0], "01": [0, 4]}
    assert dropped["occluded"] == dropped["generated"] == 1


def test_det(tmp_path):
    root = tmp_path / "raw"
    write(root / "Annotations/DET/train/ILSVRC2014_train_0000/a.xml", xml(entry(GOOD), entry((0, 0, 160, 120))))
    write(root / "Annotations/DET/train/ILSVRC2013_train/n01/b.xml", xml())
    write(root / "Annotations/DET/train/ILSVRC2013_train/n01/c.xml", xml(entry((70, 10, 110, 90)), entry(GOOD)))
    for name in ("ILSVRC2014_train_0000/a", "ILSVRC2013_train/n01/b", "ILSVRC2013_train/n01/c"):
        write_cmyk(root / f"Data/DET/train/{name}.JPEG")
    index, dropped = prepare("det", root)
    assert index == {
        "train/ILSVRC2013_train/n01/c": {"00": {"000000": [70, 10, 110, 90]}, "01": {"000000": [20, 30, 60, 70]}},
        "train/ILSVRC2014_train_0000/a": {"00": {"000000": [20, 30, 60, 70]}},
    }
    assert dropped == {"over 0.9 of the picture": 1}


def test_voc_counts_from_one(tmp_path):
    root = tmp_path / "raw"
    for name in ("2007_1", "2007_2"):
        write(root / "Annotations" / f"{name}.xml", xml(entry((21, 31, 60, 70))))
        write_picture(root / "JPEGImages" / f"{name}.jpg")
    write(root / "ImageSets/Main/train.txt", "2007_2 1\n")
    index, _ = prepare("voc", root)
    assert index["2007_1"]["00"]["000000"] == [20, 30, 60, 70]
    assert set(index) == {"2007_1", "2007_2"}
    assert set(prepare("voc", root, "--split", "train")[0]) == {"2007_2"}


def lasot_tree(root: Path) -> None:
    for number in (1, 2):
        folder = root / "airplane" / f"airplane-{number}"
        for frame in range(1, 6):
            write_picture(folder / "img" / f"{frame:08d}.jpg", picture(seed=frame))
        write(folder / "groundtruth.txt", "".join(f"{20 + k},31,40,30\n" for k in range(1, 6)))
        write(folder / "full_occlusion.txt", "0,0,1,0,0")
        write(folder / "out_of_view.txt", "0,0,0,1,0\n")
        write(folder / "nlp.txt", "an airplane")


def test_lasot(tmp_path, caplog):
    root = tmp_path / "raw"
    lasot_tree(root)
    with pytest.raises(UserError, match=r"neither training_set\.txt nor testing_set\.txt"):
        prepare("lasot", root)
    write(root / "testing_set.txt", "airplane-2\n")
    index, dropped = prepare("lasot", root)
    assert index == {"airplane/airplane-1": {"00": {f"{k:06d}": [19 + k, 30, 59 + k, 60] for k in (1, 2, 5)}}}
    assert dropped == {"absent": 2}
    write(root / "training_set.txt", "airplane-2\n")
    assert set(prepare("lasot", root)[0]) == {"airplane/airplane-2"}
    write(root / "training_set.txt", "airplane-2\nairplane-7\n")
    with caplog.at_level(logging.WARNING):
        assert set(prepare("lasot", root)[0]) == {"airplane/airplane-2"}, "a part of it may have been downloaded"
    assert "training_set.txt names 2 videos, 1 of them are not there" in caplog.text
    write(root / "training_set.txt", "airplane-7\n")
    with pytest.raises(UserError, match="airplane-7"):
        prepare("lasot", root)


def test_lasots_training_videos_have_a_picture_more_than_boxes(tmp_path):
    root = tmp_path / "raw"
    lasot_tree(root)
    write(root / "training_set.txt", "airplane-1\nairplane-2\n")
    write_picture(root / "airplane" / "airplane-2" / "img" / "00000006.jpg")
    index, dropped = prepare("lasot", root)
    assert index["airplane/airplane-1"] == index["airplane/airplane-2"]
    assert dropped == {"absent": 4}


@pytest.mark.parametrize("name", ["frame_{}.jpg", "img ({}).jpg", "clip_{}_720p.jpg"])
def test_boxes_belong_to_the_pictures_in_the_order_of_their_numbers(tmp_path, name):
    root = tmp_path / "raw"
    for frame in range(1, 13):
        write_picture(root / "a" / "img" / name.format(frame))
    write_picture(root / "a" / "img" / "._frame_1.jpg")
    write(root / "a" / "groundtruth.txt", "".join(f"{20 + k},30,40,30\n" for k in range(1, 13)))
    index, _ = prepare("videos", root)
    (out,) = root.parent.glob("data_videos_*")
    pictures = json.loads((out / "pictures.json").read_text(encoding="utf-8"))["a"]
    for frame, box in index["a"]["00"].items():
        number = int(box[0]) - 20
        assert picture_path(pictures, int(frame)) == f"a/img/{name.format(number)}"


def test_a_picture_is_cut_as_it_is_seen(tmp_path):
    """The mark 6 says: turn a quarter to the right; boxes are drawn on what a viewer shows."""
    root = tmp_path / "raw"
    upright = picture(160, 120)
    upright[30:70, 20:60] = (0, 0, 255)
    turned = Image.Exif()
    turned[0x112] = 6
    (root / "a").mkdir(parents=True)
    Image.fromarray(upright[:, :, ::-1]).transpose(Image.Transpose.ROTATE_90).save(root / "a" / "1.jpg", quality=95,
                                                                                  exif=turned)
    write(root / "a" / "groundtruth.txt", "20,30,40,40\n")
    index, _ = prepare("videos", root)
    assert index == {"a": {"00": {"000001": [20, 30, 60, 70]}}}
    (crop,) = root.parent.glob("data_videos_*/crop511/a/*.jpg")
    assert np.allclose(cv2.imread(str(crop))[255, 255], (0, 0, 255), atol=12)


def test_trackingnet(tmp_path):
    root = tmp_path / "raw"
    for part, name in (("TRAIN_0", "-abc_1"), ("TRAIN_1", "é_2"), ("TEST", "t_1")):
        for frame in range(11):
            write_picture(root / part / "frames" / name / f"{frame}.jpg", picture(seed=frame))
        write(root / part / "anno" / f"{name}.txt", "".join(f"{20.5 + k},30.0,40.0,30.0\n" for k in range(11)))
    (root / "TRAIN_1" / "frames" / "é_2" / "0.jpg").unlink()
    index, dropped = prepare("trackingnet", root)
    assert set(index) == {"TRAIN_0/-abc_1", "TRAIN_1/é_2"}
    assert sorted(map(int, index["TRAIN_0/-abc_1"]["00"])) == list(range(11)), "by number, not by alphabet"
    assert index["TRAIN_0/-abc_1"]["00"]["000010"] == [30.5, 30, 70.5, 60]
    assert sorted(map(int, index["TRAIN_1/é_2"]["00"])) == list(range(1, 11)), "a missing first picture shifts nothing"
    assert dropped == {"picture missing": 1}
    assert set(prepare("trackingnet", root, "--split", "TRAIN_0")[0]) == {"TRAIN_0/-abc_1"}
    with pytest.raises(UserError, match="no anno"):
        prepare("trackingnet", root / "TEST")
    (root / "TRAIN_0" / "frames").rename(root / "TRAIN_0" / "zips")
    with pytest.raises(UserError, match=r"TRAIN_0/frames: no such folder; unpack each archive of TRAIN_0/zips"):
        prepare("trackingnet", root)


def ytb_tree(root: Path) -> None:
    rows = ["AAA_-1,0,3,bird,0,present,0.125,0.375,0.25,0.5", "AAA_-1,1000,3,bird,0,present,0.25,0.5,0.25,0.5",
            "AAA_-1,2000,3,bird,0,absent,-1.0,-1.0,-1.0,-1.0", "AAA_-1,3000,3,bird,0,present,0.25,0.5,0.25,0.5",
            "BBB,5000,3,bird,0,present,0.2,0.6,0.2,0.6",
            "AAA_-1,1040,3,bird,0,present,0.1,0.5,0.1,0.5",
            "AAA_-1,1000,3,bird,1,present,0.5,0.9,0.5,0.9", "AAA_-1,1000,0,person,0,present,0.5,0.5,0.5,0.9"]
    write(root / "yt_bb_detection_train.csv", "\n".join(rows) + "\n")
    for name in ("3/AAA_-1_0_3_0", "3/AAA_-1_1000_3_0", "3/AAA_-1_2000_3_0", "3/AAA_-1_1000_3_1", "0/AAA_-1_1000_0_0"):
        write_picture(root / "yt_bb_detection_train" / f"{name}.jpg")


def test_youtube_bb(tmp_path):
    root = tmp_path / "raw"
    ytb_tree(root)
    index, dropped = prepare("ytb", root)
    assert index == {"yt_bb_detection_train/3/AAA_-1": {
        "00": {"000000": [20, 30, 60, 60], "000001": [40, 30, 80, 60]}, "01": {"000001": [80, 60, 144, 108]}}}
    assert dropped == {"absent": 1, "picture missing": 2, "no area": 1, "a second box in the same second": 1}


def test_youtube_bb_that_is_not_in_form(tmp_path):
    root = tmp_path / "raw"
    ytb_tree(root)
    path = root / "yt_bb_detection_train.csv"
    text = path.read_text(encoding="utf-8")
    path.write_text("just words\n" + text, encoding="utf-8")
    with pytest.raises(UserError, match=r"byte 0: b'just words.*expected youtube_id"):
        prepare("ytb", root)
    path.write_text("../../x,0,3,bird,0,present,0,1,0,1\n", encoding="utf-8")
    with pytest.raises(UserError, match="no relative path below"):
        prepare("ytb", root)
    path.rename(path.with_name(path.name + ".gz"))
    with pytest.raises(UserError, match="gunzip"):
        prepare("ytb", root)


def test_plain_videos(tmp_path):
    root = tmp_path / "raw"
    for name, lines, truth in (("rect", "21 31 40 30\n" * 3, "groundtruth_rect.txt"),
                               ("polygon", "21,31,61,31,61,61,21,61\n" * 3, "groundtruth.txt"),
                               ("gone", "21,31,40,30\nNaN,NaN,NaN,NaN\n21,31,40,30\n", "groundtruth.txt"),
                               ("broken", "21,31,40,30\n21,31\n21,31,40,30\n", "groundtruth.txt")):
        for frame in range(7, 10):
            write_picture(root / "set" / name / "img" / f"{frame:04d}.png")
        write(root / "set" / name / truth, lines)
    index, dropped = prepare("videos", root, "--origin", "1")
    assert set(index) == {"set/rect", "set/polygon", "set/gone"}
    assert index["set/rect"]["00"] == {f"{k:06d}": [20, 30, 60, 60] for k in (7, 8, 9)}
    assert np.allclose(index["set/polygon"]["00"]["000007"], [19.5, 29.5, 60.5, 60.5])
    assert sorted(map(int, index["set/gone"]["00"])) == [7, 9]
    assert dropped == {"absent": 1}


def test_linked_folders_are_found_and_circles_end(tmp_path):
    root = tmp_path / "raw"
    folder = tmp_path / "elsewhere" / "v1"
    write_picture(folder / "00000001.jpg")
    write(folder / "groundtruth.txt", "20,30,40,30\n")
    root.mkdir()
    (root / "linked").symlink_to(folder)
    (root / "circle").symlink_to(root)
    assert set(prepare("got10k", root)[0]) == {"linked"}


@pytest.mark.parametrize("source", ["vid", "det", "voc"])
def test_a_root_without_annotations(tmp_path, source):
    (tmp_path / "raw").mkdir()
    with pytest.raises(UserError, match=r"Annotations.*no such folder"):
        prepare(source, tmp_path / "raw")


def test_xml_that_repeats_itself_without_end_is_refused(tmp_path):
    bomb = "<!DOCTYPE x [<!ENTITY a 'aaaaaaaaaa'>" + "".join(
        f"<!ENTITY {chr(98 + k)} '{f'&{chr(97 + k)};' * 10}'>" for k in range(9)) + "]><annotation>&j;</annotation>"
    root = tmp_path / "raw"
    write(root / "Annotations/DET/train/bomb.xml", bomb)
    write(root / "Annotations/DET/train/a.xml", xml(entry(GOOD)))
    write_cmyk(root / "Data/DET/train/a.JPEG")
    index, dropped = prepare("det", root)
    assert set(index) == {"train/a"}
    assert dropped == {"annotation unreadable": 1}
