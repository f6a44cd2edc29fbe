"""Test sets and result files as people really keep them: other names, other separators, links, leftovers of a Mac."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from raw_trees import picture
from test_layouts import BOXES, images, put, rows

from lib.benchmarks import (
    Benchmark,
    find_results,
    layout_of,
    load_benchmark,
    result_folder,
)
from lib.benchmarks.facts import alias_key
from lib.errors import UserError
from lib.eval_toolkit.page import referenced_images

POLYGONS = [[x, y, x + w, y, x + w, y + h, x, y + h] for x, y, w, h in BOXES]


def only(dataset: str, root: Path) -> Benchmark:
    benchmark = load_benchmark(dataset, root, images=True)
    assert len(benchmark.sequences) == 1
    return benchmark


def mine(root: Path, text: str) -> Path:
    images(root / "mine" / "a" / "img", [1, 2, 3], digits=4)
    return put(root / "mine" / "a" / "groundtruth.txt", text)


# Names of data sets


@pytest.mark.parametrize(("spelling", "name"), [
    ("OTB-100", "OTB2015"), ("OTB_100", "OTB2015"), ("OTB", "OTB2015"), ("TB100", "OTB2015"), ("otb2015", "OTB2015"),
    ("otb50", "OTB50"), ("vot2018", "VOT2018"), ("VOT-2019", "VOT2019"), ("LaSOT", "LASOT"), ("uav_123", "UAV123"),
    ("GOT-10k", "GOT10K"), ("got10k_test", "GOT10K"), ("lasotext", "LASOT_ext"), ("My clips", "My clips"),
    ("UAV112", "UAV112"), ("VOT2022", "VOT2022"), ("LaSOT-test", "LASOT"), ("TNL2K_test", "TNL2K"),
    ("trackingnet_test", "TrackingNet"),
])  # fmt: skip
def test_a_data_set_has_one_name_however_it_is_written(spelling: str, name: str) -> None:
    assert layout_of(spelling).name == name
    assert layout_of("vot-2018").protocol == "vot"


@pytest.mark.parametrize(("typed", "near"), [
    ("OTB2014", "OTB2015"), ("OTB10", "OTB2015"), ("NFS", "NFS30"), ("VOT2014", "VOT2015"), ("LaSO", "LASOT"),
    ("TrackignNet", "TrackingNet"), ("UAV", "UAV123"), ("VOT-18", "VOT2018"), ("otb13", "OTB2013"), ("GOT", "GOT10K"),
])  # fmt: skip
def test_a_name_that_is_nearly_a_benchmarks_is_refused_with_it(tmp_path: Path, typed: str, near: str) -> None:
    mine(tmp_path, rows(BOXES))
    with pytest.raises(UserError, match=f"{typed}.*did you mean {near}"):
        load_benchmark(typed, tmp_path / "mine", images=False)


@pytest.mark.parametrize("typed", ["", " ", "dataset/OTB100", "mine/", "..", "OTB100.json"])
def test_a_path_is_no_name_of_a_data_set(typed: str) -> None:
    with pytest.raises(UserError, match=r"plain name.*--dataset_dir"):
        layout_of(typed)


def test_result_folders_are_found_under_every_name_of_their_data_set(tmp_path: Path) -> None:
    assert result_folder(tmp_path, "otb100") == tmp_path / "OTB2015"
    (tmp_path / "OTB100").mkdir()  # by an older version
    assert result_folder(tmp_path, "otb_2015") == tmp_path / "OTB100"
    (tmp_path / "OTB2015").mkdir()
    assert result_folder(tmp_path, "TB100") == tmp_path / "OTB2015"
    assert result_folder(tmp_path, "mine") == tmp_path / "mine"


# Names of sequences


def test_names_of_other_scripts_never_meet(tmp_path: Path) -> None:
    names = ("日本1", "中国1", "Größe", "Grosse", "हिन्दी", "हन्दी", "клип-1", "---")
    assert len({alias_key(name) for name in names}) == len(names)
    assert alias_key(unicodedata.normalize("NFD", "Größe")) == alias_key("größe")
    for name in ("日本1", "клип_1", "Gr_e"):
        put(tmp_path / f"{name}.txt", rows(BOXES))
    found = find_results(tmp_path, ("中国1", "日本1", "клип-1", "Größe"))
    assert {name: path.stem for name, path in found.items()} == {"日本1": "日本1", "клип-1": "клип_1"}


def test_published_results_are_found_behind_their_prefix(tmp_path: Path) -> None:
    for name in ("uav_bike1", "uav_bike1_time", "uav_car1_1", "nfs_Gymnastics", "otb_jogging_1", "bike2", "uav_bike2"):
        put(tmp_path / f"{name}.txt", rows(BOXES))
    put(tmp_path / "._uav_bike3.txt")
    found = find_results(tmp_path, ("bike1", "bike2", "bike3", "car11", "car1_1", "Gymnastics", "Jogging-1"))
    assert {name: path.stem for name, path in found.items()} == {
        "bike1": "uav_bike1", "bike2": "bike2", "car1_1": "uav_car1_1", "Gymnastics": "nfs_Gymnastics",
        "Jogging-1": "otb_jogging_1"}


def test_a_prefix_is_none_where_a_sequence_is_called_so(tmp_path: Path) -> None:
    put(tmp_path / "uav_1.txt", rows(BOXES))
    assert find_results(tmp_path, ("1", "uav_1")) == {"uav_1": tmp_path / "uav_1.txt"}
    assert find_results(tmp_path, ("1", "2")) == {"1": tmp_path / "uav_1.txt"}


def test_nfs_without_its_images_keeps_every_box(tmp_path: Path) -> None:
    put(tmp_path / "NFS" / "a" / "30" / "a.txt", "0 10 20 40 60 0 0 0 0 \"x\"\n" * 8)
    assert len(load_benchmark("NFS30", tmp_path, images=False).sequences[0]) == 8


# Ground truth


@pytest.mark.parametrize("text", [
    rows(POLYGONS, " "), rows(POLYGONS, "\t"), rows(POLYGONS, ";"), rows(POLYGONS).replace("\n", ",\n"),
    rows(POLYGONS[:1]) + rows(BOXES[1:]), rows(POLYGONS[:2]) + "nan,nan,nan,nan,nan,nan,nan,nan\n",
])  # fmt: skip
def test_polygons_with_any_separator_mixed_with_boxes_or_missing(tmp_path: Path, text: str) -> None:
    mine(tmp_path, text)
    sequence, = only("mine", tmp_path).sequences
    # The box of an upright polygon is 1 px larger, by the rule of the VOT toolkit, and so half a px further out.
    assert sequence.file_xywh[0].tolist() == pytest.approx([9.5, 19.5, 31, 41])
    assert np.isnan(sequence.boxes_xywh[2]).all() == ("nan" in text)
    if text == rows(POLYGONS[:1]) + rows(BOXES[1:]):
        assert sequence.file_xywh[1:].tolist() == BOXES[1:]


def test_boxes_with_a_comma_at_the_end_of_the_line(tmp_path: Path) -> None:
    mine(tmp_path, rows(BOXES).replace("\n", ",\n"))
    assert only("mine", tmp_path).sequences[0].file_xywh.tolist() == BOXES


@pytest.mark.parametrize(("text", "message"), [
    ("", "no boxes"), ("\n\n", "no boxes"), ("0,10,20,30,40\n" * 3, "line 1.*4 or 8"),
    ("0.1,0.2,0.05,0.08\n" * 3, "row 1.*0.05 x 0.08.*shares of the picture"),
    (rows([[10, 20, 0.05, 0.05]] * 3), "row 1.*0.05 x 0.05; expected px"),
    ("10,20,30,40\nnan,20,30,40\n10,20,30,40\n", "line 2"),
    ("0.1,0.1,0.2,0.1,0.2,0.2,0.1,0.2\n" * 3, "shares of the picture"),
    ("m340,195,87,55,0,31,50,42\n" * 3, "line 1.*a mask.*vot_workspace"),
])  # fmt: skip
def test_a_ground_truth_of_no_use_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = mine(tmp_path, text)
    with pytest.raises(UserError, match=message) as raised:
        load_benchmark("mine", tmp_path, images=True)
    assert str(path) in str(raised.value)


def test_vot_with_tabs(tmp_path: Path) -> None:
    folder = put(tmp_path / "VOT2018" / "ants1" / "groundtruth.txt", rows(POLYGONS, "\t")).parent
    for number in (1, 2, 3):
        cv2.imwrite(str(folder / f"{number:08d}.jpg"), picture(seed=number))
    benchmark = only("VOT2018", tmp_path)
    assert (benchmark.protocol, len(benchmark.sequences[0])) == ("vot", 3)


# Images


def test_what_a_mac_leaves_behind_is_no_image(tmp_path: Path) -> None:
    put(tmp_path / "OTB100" / "Deer" / "groundtruth_rect.txt", rows(BOXES))
    images(tmp_path / "OTB100" / "Deer" / "img", [1, 2, 3], digits=4)
    put(tmp_path / "OTB100" / "Deer" / "img" / "._0001.jpg", "Mac OS X")
    put(tmp_path / "OTB100" / "._Deer")
    assert [path.name for path in only("OTB100", tmp_path).sequences[0].frames] == ["0001.jpg", "0002.jpg", "0003.jpg"]


@pytest.mark.parametrize("names", [
    [f"{760577.9 + 0.05 * i:.6f}.jpg" for i in range(3)], ["a_9_720p.jpg", "a_10_720p.jpg", "a_11_720p.jpg"],
    ["img (9).jpg", "img (10).jpg", "img (11).jpg"],
])  # fmt: skip
def test_images_are_in_the_order_of_the_number_that_varies(tmp_path: Path, names: list[str]) -> None:
    put(tmp_path / "mine" / "a" / "groundtruth.txt", rows(BOXES))
    for name in reversed(names):
        put(tmp_path / "mine" / "a" / "img" / name)
    assert [path.name for path in only("mine", tmp_path).sequences[0].frames] == names


def test_vot_has_the_size_of_an_image_as_it_is_seen(tmp_path: Path) -> None:
    folder = put(tmp_path / "VOT2018" / "ants1" / "groundtruth.txt", rows(POLYGONS[:1])).parent
    turned = Image.Exif()
    turned[0x112] = 6
    Image.fromarray(picture(width=160, height=120)).save(folder / "00000001.jpg", exif=turned)
    assert only("VOT2018", tmp_path).sequences[0].image_wh == (120, 160)


# JSON


def write_json(root: Path, dataset: str, name: str, files: list[str], boxes: object = BOXES) -> None:
    entry = {"video_dir": name, "img_names": files, "gt_rect": boxes, "attr": ["Scale Variation"]}
    put(root / dataset / f"{dataset}.json", json.dumps({name: entry}))


def test_jsons_of_pysot_for_other_sets_with_frames_without_a_target(tmp_path: Path) -> None:
    lost = [BOXES[0], [float("nan")] * 4, BOXES[2]]
    write_json(tmp_path, "UAV123", "bike1", [f"bike1/{k:06d}.jpg" for k in (1, 2, 3)], lost)
    images(tmp_path / "UAV123" / "bike1", [1, 2, 3], digits=6)
    write_json(tmp_path, "LaSOT", "airplane-1", [f"airplane-1/img/{k:08d}.jpg" for k in (1, 2, 3)])
    images(tmp_path / "LaSOT" / "airplane-1" / "img", [1, 2, 3])
    uav, lasot = only("UAV123", tmp_path), only("LASOT", tmp_path)
    assert np.isnan(uav.sequences[0].boxes_xywh[1]).all()
    assert (len(uav.missing), uav.sequences[0].attributes) == (122, ("Scale Variation",))
    assert lasot.sequences[0].file_xywh.tolist() == BOXES


@pytest.mark.parametrize(("key", "files", "there"), [
    ("KiteSurf", "KiteSurf/img/{:04d}.png", "KiteSurf/img"), ("Human4-2", "Human4-2/img/{:04d}.jpg", "Human4/img"),
    ("Human4-2", "Human4/img/{:04d}.jpg", "Human4-2/img"), ("Jogging-1", "Jogging/img/{:04d}.jpg", "Jogging-1/img"),
    ("KiteSurf", "KiteSurf\\img\\{:04d}.jpg", "KiteSurf/img"),
])  # fmt: skip
def test_a_json_that_names_another_ending_or_the_other_target(tmp_path: Path, key: str, files: str, there: str) -> None:
    write_json(tmp_path, "OTB100", key, [files.format(k) for k in (1, 2, 3)])
    images(tmp_path / "OTB100" / there, [1, 2, 3], digits=4)
    frames = only("OTB100", tmp_path).sequences[0].frames
    assert [path.relative_to(tmp_path / "OTB100" / there).name for path in frames] == [f"000{k}.jpg" for k in (1, 2, 3)]


def test_a_videos_pictures_are_never_those_of_another_name(tmp_path: Path) -> None:
    write_json(tmp_path, "mine", "cat-1", [f"cat-1/img/{k:04d}.jpg" for k in (1, 2, 3)])
    images(tmp_path / "mine" / "cat" / "img", [1, 2, 3], digits=4)
    with pytest.raises(UserError, match="no folder cat-1/img"):
        load_benchmark("mine", tmp_path, images=True)


# Layouts


def _got10k(root: Path) -> None:
    put(root / "GOT10K" / "GOT-10k_Test_000001" / "groundtruth.txt", rows(BOXES[:1]))
    images(root / "GOT10K" / "GOT-10k_Test_000001", [1, 2, 3])


def _tnl2k(root: Path) -> None:
    put(root / "TNL2K" / "clip" / "groundtruth.txt", rows(BOXES))
    images(root / "TNL2K" / "clip" / "imgs", [1, 2, 3], digits=5)


def _uav_10fps(root: Path) -> None:
    put(root / "UAV123_10fps" / "anno" / "UAV123_10fps" / "truck4_2.txt", rows([BOXES[0]] * 229))
    images(root / "UAV123_10fps" / "data_seq" / "UAV123_10fps" / "truck4", range(1, 422), digits=6)


def _uav20l(root: Path) -> None:
    put(root / "UAV123" / "anno" / "UAV20L" / "bird1.txt", rows(BOXES))
    put(root / "UAV123" / "anno" / "UAV20L" / "._bird1.txt", "Mac OS X")
    images(root / "UAV123" / "data_seq" / "UAV123" / "bird1", [1, 2, 3], digits=6)


def _nfs(root: Path) -> None:
    put(root / "nfs" / "anno" / "nfs_Gymnastics.txt", rows(BOXES, "\t"))
    images(root / "nfs" / "sequences" / "Gymnastics", [1, 2, 3], digits=5)


def _lasot_ext(root: Path) -> None:
    put(root / "LaSOT_ext" / "atv" / "atv-1" / "groundtruth.txt", rows(BOXES))
    images(root / "LaSOT_ext" / "atv" / "atv-1" / "img", [1, 2, 3])


@pytest.mark.parametrize(("dataset", "tree", "name", "frames", "expected"), [
    ("GOT10K", _got10k, "GOT-10k_Test_000001", ("00000001", "00000003"), 180), ("TNL2K", _tnl2k, "clip",
                                                                              ("00001", "00003"), 700),
    ("UAV123_10fps", _uav_10fps, "truck4_2", ("000193", "000421"), 123),
    ("UAV20L", _uav20l, "bird1", ("000001", "000003"), 20), ("NFS30", _nfs, "Gymnastics", ("00001", "00003"), 100),
    ("LaSOT_ext", _lasot_ext, "atv-1", ("00000001", "00000003"), 150),
])  # fmt: skip
def test_more_layouts(
    tmp_path: Path, dataset: str, tree: Callable[[Path], None], name: str, frames: tuple[str, str], expected: int
) -> None:
    tree(tmp_path)
    benchmark = only(dataset, tmp_path)
    sequence, = benchmark.sequences
    assert (sequence.name, benchmark.expected) == (name, expected)
    assert (sequence.frames[0].stem, sequence.frames[-1].stem) == frames
    assert sequence.file_xywh[0].tolist() == BOXES[0]
    layout = layout_of(dataset)
    assert benchmark.name == layout.name


@pytest.mark.parametrize(("dataset", "video", "truth", "pictures"), [
    ("TNL2K", "TNL2K/TNL2K_test_subset/clip", "groundtruth.txt", "imgs"), ("TNL2K", "tnl2k/clip", "groundtruth.txt",
                                                                          "imgs"),
    ("LASOT", "LaSOT/LaSOTBenchmark/airplane/airplane-1", "groundtruth.txt", "img"),
    ("LASOT_ext", "lasot_extension_subset/atv-1", "groundtruth.txt", "img"),
    ("UAV123", "Dataset_UAV123/UAV123", "anno/UAV123/bike1.txt", "data_seq/UAV123/bike1"),
    ("UAV123_10fps", "UAV123", "anno/UAV123_10fps/bike1.txt", "data_seq/UAV123_10fps/bike1"),
    ("GOT10K-val", "GOT-10k/val_data/GOT-10k_Val_000001", "groundtruth.txt", ""),
    ("OTB100", "otb/Deer", "groundtruth_rect.txt", "img"), ("OTB100", "OTB100/Deer", "groundtruth_rect.txt", ""),
    ("OTB100", "OTB100/Deer", "groundtruth_rect.txt", "imgs"), ("mine", "clip", "groundtruth.txt", "frames"),
    ("TC128", "Temple-color-128/Temple-color-128/Airport_ce", "Airport_ce_gt.txt", "img"),
    ("VOT2018", "VOT2018/sequences/ants1", "groundtruth.txt", "color"), ("VOT2018", "sequences/ants1",
                                                                        "groundtruth.txt", "color"),
])  # fmt: skip
def test_a_set_lies_in_folders_of_its_own_name_in_any_case(
    tmp_path: Path, dataset: str, video: str, truth: str, pictures: str
) -> None:
    put(tmp_path / video / truth, rows(BOXES))
    (tmp_path / video / pictures).mkdir(parents=True, exist_ok=True)
    for number in (1, 2, 3):
        cv2.imwrite(str(tmp_path / video / pictures / f"{number:08d}.jpg"), picture(seed=number))
    assert len(only(dataset, tmp_path).sequences[0].frames) == 3


def test_links_may_lead_anywhere(tmp_path: Path) -> None:
    """Of a whole sequence, of its files one by one under other names; a link to nowhere and a circle do no harm."""
    store, root = tmp_path / "disk" / "Deer", tmp_path / "sets" / "OTB100"
    put(store / "groundtruth_rect.txt", rows(BOXES))
    images(store / "img", [1, 2, 3], digits=4)
    (root / "Man" / "img").mkdir(parents=True)
    (root / "Man" / "groundtruth_rect.txt").symlink_to(store / "groundtruth_rect.txt")
    for number in (1, 2, 3):
        (root / "Man" / "img" / f"{number}.jpg").symlink_to(store / "img" / f"{number:04d}.jpg")
    for name, target in (("Deer", "../../disk/Deer"), ("Girl", "/nowhere"), ("loop", str(root))):
        (root / name).symlink_to(target)
    (tmp_path / "link").symlink_to(tmp_path / "sets")
    benchmark = load_benchmark("OTB100", tmp_path / "link", images=True)
    assert [(s.name, len(s.frames)) for s in benchmark.sequences] == [("Deer", 3), ("Man", 3)]
    urls = referenced_images(benchmark, tmp_path / "pages" / "page.html")
    assert urls["Deer"].urls[0] == "../disk/Deer/img/0001.jpg"
    assert urls["Man"].urls[0] == "../sets/OTB100/Man/img/1.jpg"


def test_missing_sequences_are_counted_and_the_first_are_named(tmp_path: Path) -> None:
    _lasot_ext(tmp_path)
    benchmark = only("LaSOT_ext", tmp_path)
    assert benchmark.missing_text() == "149 of 150 missing: atv-2, atv-3, atv-4 and 146 more"
    assert benchmark.missing_text(shown=149).count(",") == 148
    _tnl2k(tmp_path)
    assert only("TNL2K", tmp_path).missing_text() == "699 of 700 missing"  # their names are not known
