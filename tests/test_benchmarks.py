"""Reading OTB in every form it comes in, and reading and writing result files."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings, strategies as st
from otb_trees import boxes_of, make_sequence, numbered, shared, write_rows

from lib.benchmarks import (
    find_results,
    flat_trackers,
    load_benchmark,
    read_result,
    read_result_rows,
    result_file,
    write_result,
)
from lib.benchmarks.box_files import _parse_clean, _parse_slowly
from lib.benchmarks.facts import OTB_ATTRIBUTES, OTB_FACTS, OTB_SETS, otb_name
from lib.errors import UserError

ROOT = Path(__file__).resolve().parents[1]


# What is known before any file is read


def test_the_table_has_otb2015_whole() -> None:
    assert len(OTB_FACTS) == 100
    assert sum(fact.num_frames for fact in OTB_FACTS.values()) == 59_035  # 59,040 with Tiger1's first five
    assert len(OTB_SETS["OTB50"]) == len(set(OTB_SETS["OTB50"])) == 50
    assert len(OTB_SETS["OTB2013"]) == len(set(OTB_SETS["OTB2013"])) == 51
    assert set(OTB_SETS["OTB50"]) | set(OTB_SETS["OTB2013"]) <= set(OTB_FACTS)


@pytest.mark.parametrize(("name", "first", "last"), [
    ("David", 300, 770), ("Football1", 1, 74), ("Freeman3", 1, 460), ("Freeman4", 1, 283), ("Diving", 1, 215),
    ("BlurCar1", 247, 988), ("BlurCar3", 3, 359), ("BlurCar4", 18, 397), ("Tiger1", 6, 354), ("Basketball", 1, 725),
])  # fmt: skip
def test_frame_ranges(name: str, first: int, last: int) -> None:
    assert (OTB_FACTS[name].first, OTB_FACTS[name].last) == (first, last)


@pytest.mark.parametrize(("spelling", "name"), [
    ("jogging_1", "Jogging-1"), ("Jogging-1", "Jogging-1"), ("Jogging.1", "Jogging-1"), ("Jogging_1", "Jogging-1"),
    ("Jogging1", "Jogging-1"), ("skating2_2", "Skating2-2"), ("Skating2.1", "Skating2-1"), ("human4_2", "Human4-2"),
    ("Human4-2", "Human4-2"), ("Human4", "Human4-2"), ("carDark", "CarDark"), ("fleetface", "FleetFace"),
    ("faceocc1", "FaceOcc1"), ("Basketball", "Basketball"), ("Skating2", None), ("nothing", None),
])  # fmt: skip
def test_every_toolkits_spelling_is_one_sequence(spelling: str, name: str | None) -> None:
    assert otb_name(spelling) == name


def test_the_table_agrees_with_pysots_json() -> None:
    content = json.loads(shared("otb_annotations", "OTB100.json").read_text(encoding="utf-8"))
    assert set(content) == set(OTB_FACTS)
    for name, entry in content.items():
        fact = OTB_FACTS[name]
        assert fact.num_frames == len(entry["gt_rect"]), name
        assert fact.first == int(Path(entry["img_names"][0]).stem), name
        assert fact.folder == entry["video_dir"].partition("-")[0], name
        assert set(fact.attributes) == set(entry["attr"]), name
    assert {name for entry in content.values() for name in entry["attr"]} == set(OTB_ATTRIBUTES.values())


# Official folders


def test_a_folder_is_read_with_origin_0_and_its_frames(tmp_path: Path) -> None:
    make_sequence(tmp_path, "Deer", count=71)
    benchmark = load_benchmark("OTB2015", tmp_path, images=True)
    (deer,) = benchmark.sequences
    assert deer.name == "Deer"
    assert len(deer) == 71
    assert deer.boxes_xywh[0].tolist() == [49, 59, 20, 10]  # 1-based 50, 60 in the file
    assert deer.file_xywh[0].tolist() == [50, 60, 20, 10]
    assert deer.frames[0] == tmp_path / "Deer" / "img" / "0001.jpg"
    assert deer.frames[-1].name == "0071.jpg"
    assert "Fast Motion" in deer.attributes
    assert benchmark.expected == 100
    assert len(benchmark.missing) == 99
    assert "Basketball" in benchmark.missing
    assert benchmark.source == tmp_path
    assert benchmark.notes == ()


@pytest.mark.parametrize("given", [".", "OTB2015"], ids=["parent", "own folder"])
def test_the_folder_may_be_the_data_sets_own_or_its_parent(tmp_path: Path, given: str) -> None:
    make_sequence(tmp_path / "OTB2015", "Deer", count=71)
    assert load_benchmark("OTB2015", tmp_path / given, images=True).names == ("Deer",)


@pytest.mark.parametrize(("name", "present", "count", "first", "last"), [
    ("David", numbered(1, 770), 471, "0300.jpg", "0770.jpg"),
    ("David", numbered(300, 770), 471, "0300.jpg", "0770.jpg"),
    ("Football1", numbered(1, 184), 74, "0001.jpg", "0074.jpg"),
    ("BlurCar3", numbered(1, 359), 357, "0003.jpg", "0359.jpg"),
    ("Board", numbered(1, 698, digits=5), 698, "00001.jpg", "00698.jpg"),
])  # fmt: skip
def test_official_frame_ranges_pick_the_images(
    tmp_path: Path, name: str, present: list[str], count: int, first: str, last: str
) -> None:
    make_sequence(tmp_path, name, count=count, images=present)
    (sequence,) = load_benchmark("OTB2015", tmp_path, images=True).sequences
    assert (sequence.frames[0].name, sequence.frames[-1].name, len(sequence.frames)) == (first, last, count)


def test_tiger1_starts_at_frame_6_and_keeps_its_lead_in(tmp_path: Path) -> None:
    make_sequence(tmp_path, "Tiger1", count=354)
    (tiger,) = load_benchmark("OTB2015", tmp_path, images=True).sequences
    assert len(tiger) == 349
    assert tiger.frames[0].name == "0006.jpg"
    assert tiger.file_xywh[0].tolist() == [55, 65, 20, 10]
    assert tiger.lead_in_xywh[:, 0].tolist() == [49, 50, 51, 52, 53]  # origin 0
    assert tiger.num_lead_in == 5


def test_two_targets_of_one_video(tmp_path: Path) -> None:
    make_sequence(tmp_path, "Jogging", count=307, file="groundtruth_rect.1.txt")
    write_rows(tmp_path / "Jogging" / "groundtruth_rect.2.txt", boxes_of(307) + np.array([9, 9, 0, 0]))
    first, second = load_benchmark("OTB2015", tmp_path, images=True).sequences
    assert (first.name, second.name) == ("Jogging-1", "Jogging-2")
    assert first.frames == second.frames
    assert (second.boxes_xywh - first.boxes_xywh)[0].tolist() == [9, 9, 0, 0]


@pytest.mark.parametrize("file", ["groundtruth_rect.2.txt", "groundtruth_rect.txt"])
def test_human4s_first_target_is_empty(tmp_path: Path, file: str) -> None:
    make_sequence(tmp_path, "Human4", count=667, file=file)
    (tmp_path / "Human4" / "groundtruth_rect.1.txt").touch()
    assert load_benchmark("OTB2015", tmp_path, images=True).names == ("Human4-2",)


def test_an_unknown_name_means_the_folders_as_they_are(tmp_path: Path) -> None:
    make_sequence(tmp_path, "b_two", count=4)
    make_sequence(tmp_path, "a_one", count=3)
    make_sequence(tmp_path, "pair", count=3, file="groundtruth_rect.1.txt")
    (tmp_path / "notes").mkdir()
    benchmark = load_benchmark("SYNTHETIC", tmp_path, images=True)
    assert benchmark.names == ("a_one", "b_two", "pair-1")
    assert (benchmark.expected, benchmark.missing) == (3, ())


def test_sub_benchmarks_take_their_part(tmp_path: Path) -> None:
    make_sequence(tmp_path, "Deer", count=71)
    make_sequence(tmp_path, "Biker", count=142)
    assert load_benchmark("OTB50", tmp_path, images=False).names == ("Biker", "Deer")
    benchmark = load_benchmark("OTB2013", tmp_path, images=False)
    assert benchmark.names == ("Deer",)
    assert benchmark.expected == 51


def test_images_are_not_needed_for_scoring(tmp_path: Path) -> None:
    make_sequence(tmp_path, "Deer", count=71, images=[])
    (deer,) = load_benchmark("OTB2015", tmp_path, images=False).sequences
    assert deer.frames == ()
    with pytest.raises(UserError, match="no sequence with its images"):
        load_benchmark("OTB2015", tmp_path, images=True)


def test_an_unusual_length_is_said(tmp_path: Path) -> None:
    make_sequence(tmp_path, "Deer", count=6)
    assert load_benchmark("OTB2015", tmp_path, images=True).notes == ("Deer: 6 boxes, the official data set has 71",)


# What is wrong with a data set is said in one line


def test_a_missing_data_set(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        load_benchmark("OTB2015", tmp_path / "none", images=False)
    with pytest.raises(UserError, match=r"no ground truth of OTB2015; expected <Name>/groundtruth_rect.txt"):
        load_benchmark("OTB2015", tmp_path, images=False)


def test_a_sequence_without_ground_truth_is_named(tmp_path: Path) -> None:
    (tmp_path / "Basketball" / "img").mkdir(parents=True)
    with pytest.raises(UserError, match=r"no groundtruth_rect.txt with boxes in 'Basketball'"):
        load_benchmark("OTB2015", tmp_path, images=False)
    make_sequence(tmp_path, "Deer", count=71)
    with pytest.raises(UserError, match=r"no groundtruth_rect.txt with boxes in 'Basketball'"):
        load_benchmark("OTB2015", tmp_path, images=False)


@pytest.mark.parametrize("line", ["1,2,3", "1,2,3,4,5", "1,2,three,4", "", "1,,3,4", "1 2,3", "nan,1,1,1", "1,inf,1,1"])
def test_a_broken_line_is_named(tmp_path: Path, line: str) -> None:
    make_sequence(tmp_path, "Deer", count=71)
    path = tmp_path / "Deer" / "groundtruth_rect.txt"
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[16] = line
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(UserError, match=r"Deer/groundtruth_rect.txt line 17: "):
        load_benchmark("OTB2015", tmp_path, images=False)


def test_more_frames_than_boxes_says_both_counts(tmp_path: Path) -> None:
    make_sequence(tmp_path, "Deer", count=70, images=numbered(1, 71))
    with pytest.raises(UserError, match=r"Deer/groundtruth_rect.txt: 70 boxes for 71 images"):
        load_benchmark("OTB2015", tmp_path, images=True)
    make_sequence(tmp_path / "more", "video", count=8, images=numbered(1, 7))
    with pytest.raises(UserError, match=r"8 boxes for 7 images"):
        load_benchmark("MORE", tmp_path / "more", images=True)


def test_a_first_box_without_size(tmp_path: Path) -> None:
    make_sequence(tmp_path, "Deer", count=71)
    write_rows(tmp_path / "Deer" / "groundtruth_rect.txt", boxes_of(71) * [1, 1, 0, 1])
    with pytest.raises(UserError, match="row 1: the first box has no size"):
        load_benchmark("OTB2015", tmp_path, images=False)


# JSON forms


def pysot_entry(name: str, count: int) -> dict[str, object]:
    return {"video_dir": name, "init_rect": [50, 60, 20, 10], "gt_rect": boxes_of(count).tolist(),
            "img_names": [f"{name}/img/{file}" for file in numbered(1, count)], "attr": ["Occlusion", "Rain"]}


def trackit_entry(folder: str, count: int) -> dict[str, object]:
    return {"name": folder, "image_files": numbered(1, count), "init_rect": [50, 60, 20, 10],
            "gt_rect": boxes_of(count).tolist()}


def write_json(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.mark.parametrize("place", ["OTB2015/OTB2015.json", "OTB2015/OTB100.json", "OTB2015.json"])
@pytest.mark.parametrize("form", ["pysot", "trackit"])
def test_both_json_forms_wherever_they_lie(tmp_path: Path, place: str, form: str) -> None:
    content = {"Jogging-2": pysot_entry("Jogging", 307), "Deer": pysot_entry("Deer", 71)} if form == "pysot" else {
        "jogging_2": trackit_entry("Jogging", 307), "deer": trackit_entry("Deer", 71)}
    write_json(tmp_path / place, content)
    for folder, count in (("Jogging", 307), ("Deer", 71)):
        make_sequence(tmp_path / "OTB2015", folder, count=count)
        (tmp_path / "OTB2015" / folder / "groundtruth_rect.txt").unlink()
    benchmark = load_benchmark("OTB2015", tmp_path / "OTB2015", images=True)
    assert benchmark.names == ("Deer", "Jogging-2")
    assert benchmark.source == tmp_path / place
    jogging = benchmark.sequences[1]
    assert jogging.frames[306] == tmp_path / "OTB2015" / "Jogging" / "img" / "0307.jpg"
    assert jogging.boxes_xywh[0].tolist() == [49, 59, 20, 10]
    assert jogging.attributes == OTB_FACTS["Jogging-2"].attributes
    assert load_benchmark("OTB2015", tmp_path, images=True).names == benchmark.names


def test_a_json_tests_the_folders_that_are_there(tmp_path: Path) -> None:
    write_json(tmp_path / "OTB2015.json", {"deer": trackit_entry("Deer", 71), "man": trackit_entry("Man", 134)})
    make_sequence(tmp_path, "Man", count=134)
    benchmark = load_benchmark("OTB2015", tmp_path, images=True)
    assert benchmark.names == ("Man",)
    assert "Deer" in benchmark.missing
    assert benchmark.notes == ("Deer: no folder Deer/img, left out",)
    assert load_benchmark("OTB2015", tmp_path, images=False).names == ("Deer", "Man")
    (tmp_path / "Man" / "img" / "0077.jpg").unlink()
    with pytest.raises(UserError, match=r"Man/img/0077.jpg: no such frame; 133 of 134"):
        load_benchmark("OTB2015", tmp_path, images=True)


def test_a_json_of_another_data_set_is_taken_as_it_is(tmp_path: Path) -> None:
    write_json(tmp_path / "MINE.json", {"clip": pysot_entry("clip", 3)})
    (clip,) = load_benchmark("MINE", tmp_path, images=False).sequences
    assert (clip.name, clip.attributes, len(clip)) == ("clip", ("Occlusion", "Rain"), 3)


@pytest.mark.parametrize(("change", "message"), [
    ({"gt_rect": None}, "no gt_rect"),
    ({"gt_rect": [[1, 2, 3, 4], [1, 2, 3]]}, "gt_rect row 2"),
    ({"gt_rect": [[1, 2, 3, 4], [1, 2, "3", None]]}, "gt_rect row 2"),
    ({"image_files": None, "name": "Deer"}, "no img_names or image_files"),
    ({"image_files": ["0001.jpg"]}, "71 boxes for 1 images"),
    ({"name": "../../secret"}, "leads out of the data set"),
])  # fmt: skip
def test_a_broken_json_names_file_and_key(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = write_json(tmp_path / "OTB2015.json", {"deer": trackit_entry("Deer", 71) | change})
    with pytest.raises(UserError, match=message) as raised:
        load_benchmark("OTB2015", tmp_path, images=True)
    assert str(raised.value).startswith(f"{path}: deer")


@pytest.mark.parametrize("content", ["", "[1, 2]", '{"deer": 3}', "{"])
def test_a_file_that_is_no_such_json(tmp_path: Path, content: str) -> None:
    (tmp_path / "OTB2015.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"OTB2015\.json"):
        load_benchmark("OTB2015", tmp_path, images=False)


# Real data


def test_the_sample_folders_are_read_whole() -> None:
    benchmark = load_benchmark("OTB2015", shared("OTB_sample"), images=True)
    assert benchmark.names == ("Bolt2", "Couple", "Crossing", "David", "Deer", "Girl", "Jogging-1", "Jogging-2", "Man",
                               "Skiing")
    assert len(benchmark.missing) == 90
    assert benchmark.notes == ()
    assert all(frame.is_file() for sequence in benchmark.sequences for frame in sequence.frames[::50])


def test_folders_and_both_json_forms_agree() -> None:
    folder = shared("otb_annotations")
    pysot, trackit = (load_benchmark(name, folder, images=False) for name in ("OTB100", "OTB2015"))
    assert (pysot.source.name, trackit.source.name) == ("OTB100.json", "OTB2015.json")
    assert pysot.names == trackit.names
    assert len(pysot.names) == 100
    for ours, theirs in zip(pysot.sequences, trackit.sequences, strict=True):
        assert np.array_equal(ours.boxes_xywh, theirs.boxes_xywh), ours.name
    by_name = {sequence.name: sequence for sequence in pysot.sequences}
    for sequence in load_benchmark("OTB2015", shared("OTB_sample"), images=False).sequences:
        assert np.array_equal(sequence.boxes_xywh, by_name[sequence.name].boxes_xywh), sequence.name


# Result files


def test_a_result_is_written_1_based_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "Deer.txt"
    boxes = np.array([[0.0, 1.25, 3.5, 4.0], [-2.5, 7.123456, 3, 4]])
    write_result(path, boxes, dataset="OTB2015")
    assert path.read_text(encoding="utf-8") == "1.0000,2.2500,3.5000,4.0000\n-1.5000,8.1235,3.0000,4.0000\n"
    assert np.allclose(read_result(path, dataset="OTB2015"), boxes, atol=5e-5)
    assert boxes[1, 1] == 7.123456
    assert read_result(path, dataset="OTB2015", origin=0)[0, 0] == 1


def test_nan_is_kept_and_anything_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("1,2,3,4\nNaN,nan,NaN,NaN\n1,2,-3,4\n", encoding="utf-8")
    boxes = read_result(path, dataset="OTB2015")
    assert np.isnan(boxes[1]).all()
    assert boxes[2].tolist() == [0, 1, -3, 4]
    for text in ("1,2,3,4\nlost\n", "1,2,3,4\n1,inf,3,4\n", "1,2,3,4\n1,2,3\n1,2,3,4,5\n", "1,2,3,4\n1,2,3,1_0\n"):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=r"a.txt line 2: "):
            read_result(path, dataset="OTB2015")
    path.write_bytes(b"1,2,3,4\n\xff\xfe\n")
    with pytest.raises(UserError, match=r"a.txt line 2: not text"):
        read_result(path, dataset="OTB2015")
    with pytest.raises(UserError, match="no such file"):
        read_result(tmp_path / "b.txt", dataset="OTB2015")


@pytest.mark.parametrize("text", [
    "1,2,3,4\n5,6,7,8\n", "1\t2\t3\t4\r\n5\t6\t7\t8\r\n", "1 2 3 4\n5 6 7 8", " 1,  2, 3,4 \n5;6;7;8\n\n\n",
    "\ufeff1,2,3,4\n5,6,7,8\n", "1.,2,3e0,+4\n5,6,7.0,8",
])  # fmt: skip
def test_separators(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.txt"
    path.write_text(text, encoding="utf-8", newline="")
    assert read_result_rows(path).tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(alphabet="0123456789.,-+eEna \t", max_size=24), max_size=4))
def test_the_fast_parser_only_takes_what_the_slow_one_takes(lines: list[str]) -> None:
    check_that_the_slow_parser_agrees("\n".join(lines).encode())


@settings(max_examples=500, deadline=None)
@given(st.lists(st.text(alphabet="019.-", max_size=4), min_size=4, max_size=4))
@example([".-", ".5", ".4", ".2"])
def test_the_fast_parser_is_not_fooled_by_signs_and_points(tokens: list[str]) -> None:
    check_that_the_slow_parser_agrees(",".join(tokens).encode())


def check_that_the_slow_parser_agrees(data: bytes) -> None:
    fast = _parse_clean(data)
    if fast is not None:
        assert np.array_equal(fast, _parse_slowly(Path("x"), data, widths=(4,)), equal_nan=True)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.lists(st.from_regex(r"-?[0-9]{0,12}\.[0-9]{0,12}", fullmatch=True), min_size=4, max_size=4),
                min_size=1, max_size=3))
def test_decimals_are_rounded_as_python_rounds_them(rows: list[list[str]]) -> None:
    fast = _parse_clean("".join(",".join(row) + "\n" for row in rows).encode())
    if any(number in (".", "-.") for row in rows for number in row):
        assert fast is None
    else:
        assert fast is not None
        assert fast.tolist() == [[float(number) for number in row] for row in rows]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.floats(allow_infinity=False), min_size=4, max_size=4), min_size=1, max_size=4))
def test_the_fast_parser_reads_every_number_exactly(rows: list[list[float]]) -> None:
    data = "".join(",".join(map(repr, row)) + "\n" for row in rows).encode()
    fast = _parse_clean(data)
    assert fast is not None
    assert np.array_equal(fast, np.array(rows), equal_nan=True)


def test_results_are_found_under_any_spelling(tmp_path: Path) -> None:
    for name in ("jogging_1.txt", "Human4.txt", "Deer.txt", "deer.txt", "run.json"):
        (tmp_path / name).touch()
    found = find_results(tmp_path, ("Jogging-1", "Human4-2", "Deer", "Man"))
    assert {name: path.name for name, path in found.items()} == {
        "Jogging-1": "jogging_1.txt", "Human4-2": "Human4.txt", "Deer": "Deer.txt"}
    assert result_file(tmp_path, "Jogging-1").name == "jogging_1.txt"
    assert result_file(tmp_path, "Man") == tmp_path / "Man.txt"
    assert result_file(tmp_path / "none", "Man") == tmp_path / "none" / "Man.txt"
    (tmp_path / "Jogging.1.txt").touch()
    with pytest.raises(UserError, match=r"Jogging.1.txt and jogging_1.txt both stand for Jogging-1"):
        find_results(tmp_path, ("Jogging-1",))


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    with pytest.raises(UserError, match="cannot be written"):
        write_result(tmp_path / "taken" / "Deer.txt", boxes_of(2), dataset="OTB2015")


def test_torch_is_not_loaded() -> None:
    code = "import sys, lib.benchmarks; sys.exit('torch' in sys.modules or 'cv2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


# The OTB MATLAB toolkit's own files


def write_mat(path: Path, rows: object, **more: object) -> Path:
    savemat = pytest.importorskip("scipy.io", reason="scipy is not installed").savemat
    path.parent.mkdir(parents=True, exist_ok=True)
    cell = np.empty((1, 1), object)
    cell[0, 0] = {"res": rows, "type": "rect", "len": 5, "annoBegin": 1, "startFrame": 1} | more
    savemat(path, {"results": cell})
    return path


def test_a_mat_of_the_otb_toolkit(tmp_path: Path) -> None:
    rows = boxes_of(5)
    rows[2] = np.nan
    path = write_mat(tmp_path / "KCF" / "jogging-1_KCF.mat", rows)
    assert find_results(tmp_path / "KCF", ("Jogging-1",)) == {"Jogging-1": path}
    assert np.array_equal(read_result(path, dataset="OTB2015"), rows - np.array([1, 1, 0, 0]), equal_nan=True)
    assert len(read_result(write_mat(path, rows[:1]), dataset="OTB2015")) == 1


def test_the_otb_toolkits_flat_folder(tmp_path: Path) -> None:
    for name in ("jogging-1_KCF", "deer_KCF", "deer_Ocean_e20"):
        write_mat(tmp_path / f"{name}.mat", boxes_of(5))
    assert flat_trackers(tmp_path) == ["KCF", "Ocean_e20"]
    assert set(find_results(tmp_path / "KCF", ("Jogging-1", "Deer", "Man"))) == {"Jogging-1", "Deer"}
    assert set(find_results(tmp_path / "Ocean_e20", ("Jogging-1", "Deer"))) == {"Deer"}


@pytest.mark.parametrize(("rows", "more", "message"), [
    (np.zeros((5, 6)), {"type": "affine_ivt"}, "type 'affine_ivt'; only 'rect'"),
    (np.zeros((5, 3)), {}, r"shape \(5, 3\)"), ("text", {}, "not numeric"),
    (np.full((2, 4), np.inf), {}, "8 infinite"),
])  # fmt: skip
def test_a_mat_without_boxes(tmp_path: Path, rows: object, more: dict[str, object], message: str) -> None:
    path = write_mat(tmp_path / "a.mat", rows, **more)
    with pytest.raises(UserError, match=message):
        read_result(path, dataset="OTB2015")


def test_a_file_that_is_no_mat(tmp_path: Path) -> None:
    pytest.importorskip("scipy.io", reason="scipy is not installed").savemat(tmp_path / "other.mat", {"x": 1})
    with pytest.raises(UserError, match=r"other.mat: no results\{1\}.res"):
        read_result(tmp_path / "other.mat", dataset="OTB2015")
    (tmp_path / "text.mat").write_text("1,2,3,4\n" * 60, encoding="utf-8")
    with pytest.raises(UserError, match=r"text.mat: cannot be read as a MATLAB 5 file"):
        read_result(tmp_path / "text.mat", dataset="OTB2015")
