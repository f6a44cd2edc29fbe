"""What a stranger's file may hold: readers with a good file each, and the ways in which the good file is spoilt."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml
from crop_trees import write_source
from hypothesis import strategies as st
from otb_trees import boxes_of
from tracker_stubs import small_checkpoint

from lib.benchmarks import load_benchmark
from lib.benchmarks.vot import read_trajectory
from lib.checkpoint import load_model
from lib.config_file import load_config
from lib.datasets import UnreadableCrop
from lib.datasets.index import build_index, load_index
from lib.datasets.prepare.stills import coco_tasks, read_objects
from lib.datasets.prepare.upkeep import pack
from lib.datasets.stores import CropFiles, PackedCrops, load_pictures
from lib.errors import UserError
from lib.eval_toolkit.protocols import score_results
from lib.images import decode, read_image
from lib.options import PackOptions
from lib.tracker.params import load_tracker_params

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Reader:
    """A file, what it holds when it is good, and what reads it: returns, or raises UserError or UnreadableCrop."""

    path: Path
    good: bytes
    read: Callable[[], Any]


def boxes_text(count: int = 6) -> bytes:
    """Return a ground truth or a result of OTB's form."""
    return "".join(",".join(f"{v:g}" for v in row) + "\n" for row in boxes_of(count)).encode()


def _readers_of_training(root: Path) -> Iterator[tuple[str, Reader]]:
    yaml_path = root / "train.yaml"
    yield "config", Reader(yaml_path, (ROOT / "experiments/train/OceanDemo.yaml").read_bytes(),
                           lambda: load_config(yaml_path))
    params = root / "tracker.yaml"
    yield "tracker parameters", Reader(params, (ROOT / "experiments/test/OTB2015/Ocean.yaml").read_bytes(),
                                       lambda: load_tracker_params(params))
    index_path = write_source(root / "source", tracks=3, frames=2)
    good_index = index_path.read_bytes()
    index = load_index(index_path)
    plain = root / "index.json"
    yield "index", Reader(plain, good_index, lambda: build_index(plain))
    cache = root / "cached.json.arrays"
    (root / "cached.json").write_bytes(good_index)
    load_index(root / "cached.json")
    yield "index arrays", Reader(cache, cache.read_bytes(), lambda: _use_index(root / "cached.json"))
    pack(PackOptions(folder=root / "source", out=root / "packed", jobs=1))
    table = root / "packed" / "crops.arrays"
    yield "packed table", Reader(table, table.read_bytes(), lambda: _use_packed(root / "packed", index))
    pictures = root / "pictures.json"
    names = json.dumps({f"part/video_{k}": [f"video_{k}/", 8, ".jpg"] for k in range(2)})
    yield "pictures", Reader(pictures, names.encode(), lambda: load_pictures(root, pictures, index))
    crop = next((root / "source" / "crop511").rglob("*.jpg"))
    view = np.array([100.0, 150.0, 400.0, 380.0])
    small = cv2.imencode(".jpg", np.full((96, 64, 3), 90, np.uint8), [cv2.IMWRITE_JPEG_RST_INTERVAL, 4])[1].tobytes()
    crops = CropFiles(root / "source" / "crop511")
    yield "crop", Reader(crop, crop.read_bytes(), lambda: [crops.read(index, row, view)
                                                           for row in range(len(index.frames))])
    yield "picture", Reader(root / "picture.jpg", small, lambda: _decode(root / "picture.jpg"))
    checkpoint = small_checkpoint(root / "good.pth")
    broken = root / "broken.pth"
    yield "checkpoint", Reader(broken, checkpoint.read_bytes(), lambda: load_model(broken))
    annotation = root / "coco" / "instances.json"
    (root / "coco" / "images").mkdir(parents=True)
    content = {"images": [{"id": 1, "file_name": "a.jpg", "width": 100, "height": 90}],
               "annotations": [{"id": 1, "image_id": 1, "bbox": [10, 20, 30, 40], "iscrowd": 0}]}
    yield "COCO", Reader(annotation, json.dumps(content).encode(), lambda: coco_tasks(
        root / "coco", annotation="instances.json", pictures="images"))
    xml = root / "voc.xml"
    yield "VOC", Reader(xml, b"<annotation><filename>a</filename><size><width>100</width><height>90</height></size>"
                             b"<object><name>cat</name><trackid>0</trackid><bndbox><xmin>10</xmin><ymin>20</ymin><xmax>"
                             b"40</xmax><ymax>60</ymax></bndbox></object></annotation>",
                        lambda: read_objects(xml, origin=1))


def _readers_of_tests(root: Path) -> Iterator[tuple[str, Reader]]:
    def scored(name: str) -> Any:
        return load_benchmark(name, root / name, images=True)

    text = root / "otb" / "Deer" / "groundtruth_rect.txt"
    _frames(text.parent / "img", 6)
    yield "OTB text", Reader(text, boxes_text(), lambda: scored("otb"))
    json_path = root / "mine" / "mine.json"
    _frames(root / "mine" / "Deer" / "img", 6)
    entry = {"gt_rect": boxes_of(6).tolist(), "img_names": [f"Deer/img/{k:04d}.jpg" for k in range(1, 7)],
             "attr": ["Fast Motion"], "video_dir": "Deer"}
    yield "OTB JSON", Reader(json_path, json.dumps({"Deer": entry}).encode(), lambda: scored("mine"))
    polygons = [[10.0 + k, 10, 30 + k, 10, 30 + k, 30, 10 + k, 30] for k in range(6)]
    vot = root / "VOT2019" / "agility" / "groundtruth.txt"
    _frames(vot.parent / "color", 6)
    yield "VOT text", Reader(vot, "".join(",".join(map(str, row)) + "\n" for row in polygons).encode(),
                             lambda: scored("VOT2019"))
    vot_json = root / "VOT2018" / "VOT2018.json"
    _frames(root / "VOT2018" / "ants1" / "color", 6)
    entry = {"gt_rect": polygons, "img_names": [f"ants1/color/{k:04d}.jpg" for k in range(1, 7)],
             "occlusion": [0, 1, 0, 0, 0, 0], "video_dir": "ants1"}
    yield "VOT JSON", Reader(vot_json, json.dumps({"ants1": entry}).encode(), lambda: scored("VOT2018"))
    got = root / "GOT10K-val" / "val" / "GOT-10k_Val_000001"
    _frames(got, 6)
    (got / "groundtruth.txt").write_bytes(boxes_text())
    yield "GOT-10k label", Reader(got / "cover.label", b"8\n8\n0\n4\n8\n8\n", lambda: scored("GOT10K-val"))
    nfs = root / "NFS30" / "board" / "30" / "board.txt"
    _frames(nfs.with_suffix(""), 6)
    yield "NfS text", Reader(nfs, b"0 10 20 30 40 0 0 0 0 \"x\"\n" * 6, lambda: scored("NFS30"))
    whole = root / "good" / "Deer" / "groundtruth_rect.txt"
    _frames(whole.parent / "img", 6)
    whole.write_bytes(boxes_text())
    good = load_benchmark("good", root / "good", images=False)
    result = root / "results" / "Mine" / "Deer.txt"
    yield "result text", Reader(result, boxes_text(), lambda: score_results(
        good, result.parent, convention="pysot", length="fit"))
    trajectory = root / "bag_001.txt"
    yield "VOT result", Reader(trajectory, b"1\n1.5,2,30,40\n2\n0\n0\n0\n0\n1\n3,4,30,40\n",
                               lambda: read_trajectory(trajectory))


def readers(root: Path) -> dict[str, Reader]:
    """Return every reader of a stranger's file by name; what each needs beside it lies below `root`."""
    found = {**dict(_readers_of_training(root)), **dict(_readers_of_tests(root))}
    for reader in found.values():
        reader.path.parent.mkdir(parents=True, exist_ok=True)
        reader.path.write_bytes(reader.good)
    return found


def _frames(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    data = cv2.imencode(".jpg", np.full((90, 120, 3), 90, np.uint8))[1].tobytes()
    for number in range(1, count + 1):
        (folder / f"{number:04d}.jpg").write_bytes(data)


def _use_index(path: Path) -> None:
    index = load_index(path)
    for track in range(index.num_tracks):
        assert ".." not in index.video(track).split("/")
        index.draw(track, np.random.default_rng(0), frame_range=3)


def _use_packed(folder: Path, index: Any) -> None:
    crops = PackedCrops(folder, index)
    for row in range(len(index.frames)):
        crops.read(index, row)


def _decode(path: Path) -> None:
    read_image(path)
    for reduce in (1, 4):
        try:
            decode(path.read_bytes(), reduce=reduce)
        except (OSError, ValueError) as error:
            raise UnreadableCrop(str(error)) from error


ALLOWED = (UserError, UnreadableCrop)

# ---- spoiling

VALUES: list[Any] = [
    float("nan"), float("inf"), -1, 0, 10**9, 10**30, 1e308, -1e308, 5e-324, True, None, "", "x", "../x", "/etc/passwd",
    "..", "a\\b", "C:\\x", "a\0b", "a\nb", "<script>", "é" * 200, [], {}, [[[]]], [[-1, -1]], {"a": {}}, "1e999", "nan",
    [1, 2, 3], [0, 0, 0, 0], [5, 5, -1, -1], [1e999] * 4, "0x10", "1_0", "١", " 1",
]
PIECES = [
    b"", b"\0", b"\xff\xfe", b"\n", b",", b"nan", b"1e999", b"-1", b"-", b"1000000000", b"9" * 400, b"../../x", b"{",
    b"}", b"[" * 2000, b'"', b"&a [*a]", b"!!python/object/apply:os.system ['x']", b"*a", b"\t", b"\xe9", b"&a;",
    b"<!ENTITY a 'b'>", b"\xff\xda", b"\xff\xff\xff\xff", bytes(64), b"\x80\x02cos\nsystem\n", b"\xef\xbb\xbf",
    b"\xff\xd9", b"1,2,3\n", b"nan,nan,nan,nan\n",
]


@st.composite
def spoilt(draw: st.DrawFn, good: bytes) -> bytes:
    """Return a good file with up to three of its bytes, or places in its tree, replaced, lost, doubled or cut off."""
    data = good
    tree = _tree(good)
    if tree is not None and draw(st.booleans()):
        for _ in range(draw(st.integers(1, 2))):
            tree = _replaced(tree, draw)
        return json.dumps(tree).encode("utf-8", "surrogatepass")
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        end = min(len(data), at + draw(st.sampled_from([0, 1, 2, 5, 50, len(data)])))
        deed = draw(st.sampled_from(["replace", "insert", "double", "bits"]))
        piece = draw(st.sampled_from(PIECES) | st.binary(max_size=8))
        if deed == "replace":
            data = data[:at] + piece + data[end:]
        elif deed == "insert":
            data = data[:at] + piece + data[at:]
        elif deed == "double":
            data = data[:end] + data[at:]
        elif data:
            data = data[:at] + bytes([data[at] ^ (1 << draw(st.integers(0, 7)))]) + data[at + 1 :]
    return data


def _tree(good: bytes) -> Any:
    """Return a file's tree if it is JSON or YAML of keys, else None; YAML reads JSON's form too."""
    if not good[:1].isascii() or good[:1] in (b"<", b"\x80", b"P"):
        return None
    try:
        tree = yaml.safe_load(good.decode())
    except (UnicodeDecodeError, yaml.YAMLError):
        return None
    return tree if isinstance(tree, dict) else None


def _replaced(tree: Any, draw: st.DrawFn) -> Any:
    """Return the tree with one node, or one key, replaced by a value that does not belong there."""
    if isinstance(tree, dict) and tree and draw(st.integers(0, 9)):
        key = draw(st.sampled_from(sorted(tree, key=str)))
        if not draw(st.integers(0, 4)):
            name = draw(st.sampled_from([str(value)[:300] for value in VALUES]))
            return {(name if k == key else k): v for k, v in tree.items()}
        return {**tree, key: _replaced(tree[key], draw)}
    if isinstance(tree, list) and tree and draw(st.integers(0, 9)):
        at = draw(st.integers(0, len(tree) - 1))
        return [*tree[:at], _replaced(tree[at], draw), *tree[at + 1 :]]
    return draw(st.sampled_from(VALUES))


def odd_files(path: Path) -> Iterator[str]:
    """Put one thing after the other in the place of a file, each told by its name."""
    def clear() -> None:
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink(missing_ok=True)

    clear()
    yield "nothing"
    for name, data in {
        "empty": b"", "zeros": bytes(4096), "binary": os.urandom(5000), "latin-1": b"\xe9\xe8,1,2,3\n" * 50,
        "deep": b"[" * 200_000, "deep objects": b'{"a":' * 100_000, "long line": b"1," * 500_000,
        "entities": b"<?xml version='1.0'?><!DOCTYPE x [<!ENTITY a 'ha'>" + b"".join(
            b"<!ENTITY %c '%s'>" % (k + 1, b"&%c;" % k * 12) for k in range(97, 107)) + b"]><a>&k;</a>",
        "a billion": struct.pack("<Q", 10**9) * 100,
    }.items():
        path.write_bytes(data)
        yield name
        clear()
    path.mkdir()
    yield "a folder"
    clear()
    path.symlink_to(path)
    yield "a circle of links"
    clear()
