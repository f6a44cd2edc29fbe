"""Every benchmark but OTB and VOT, from GOT-10k to OxUvA, and plain folders: read, scored and packed."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from raw_trees import write_picture

from lib.benchmarks import LAYOUTS, Benchmark, layout_of, load_benchmark, write_result
from lib.commands import call
from lib.errors import UserError
from lib.eval_toolkit.protocols import score_results

BOXES = [[10, 20, 30, 40], [11, 20, 30, 40], [12, 20, 30, 40]]


def put(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def rows(boxes: Sequence[Sequence[object]], separator: str = ",") -> str:
    return "".join(separator.join(map(str, box)) + "\n" for box in boxes)


def images(folder: Path, numbers: Sequence[int], digits: int = 8) -> None:
    for number in numbers:
        put(folder / f"{number:0{digits}d}.jpg")


def got10k(root: Path, subset: str = "val", *, cover: str = "8\n8\n0\n") -> Path:
    folder = root / "GOT10K" / subset / f"GOT-10k_{subset.capitalize()}_000001"
    put(folder / "groundtruth.txt", rows(BOXES if subset == "val" else BOXES[:1]))
    put(folder / "meta_info.ini", "[METAINFO]\nurl: u\nresolution: (100, 50)\n")
    if subset == "val":
        put(folder / "cover.label", cover)
    images(folder, [1, 2, 3])
    return root


def lasot(root: Path) -> Path:
    folder = root / "LaSOT" / "airplane" / "airplane-1"
    put(folder / "groundtruth.txt", rows(BOXES))
    put(folder / "full_occlusion.txt", "0,0,1")
    put(folder / "out_of_view.txt", "0,0,0")
    images(folder / "img", [1, 2, 3])
    return root


def trackingnet(root: Path) -> Path:
    put(root / "TrackingNet" / "TEST" / "anno" / "0-6LB4FqxoE_0.txt", rows(BOXES[:1]))
    images(root / "TrackingNet" / "TEST" / "frames" / "0-6LB4FqxoE_0", [0, 1, 2, 10], digits=1)
    return root


def uav123(root: Path) -> Path:
    put(root / "UAV123" / "anno" / "UAV123" / "car1_2.txt", rows([*[BOXES[0]] * 876, ["NaN"] * 4]))
    images(root / "UAV123" / "data_seq" / "UAV123" / "car1", range(740, 1640), digits=6)
    return root


def nfs(root: Path, *, count: int = 24) -> Path:
    lines = [[0, 10 + i, 20, 40 + i, 60, i, 0, 0, 0, '"person"'] for i in range(count)]
    put(root / "NFS" / "airboard_1" / "30" / "airboard_1.txt", rows(lines, " "))
    images(root / "NFS" / "airboard_1" / "30" / "airboard_1", [1, 2, 3], digits=5)
    return root


def tc128(root: Path) -> Path:
    folder = root / "TC128" / "Airport_ce"
    put(folder / "Airport_ce_gt.txt", rows(BOXES))
    put(folder / "Airport_ce_frames.txt", "2,4\n")
    images(folder / "img", range(1, 9), digits=4)
    return root


def dtb70(root: Path) -> Path:
    put(root / "DTB70" / "Animal1" / "groundtruth_rect.txt", rows(BOXES))
    images(root / "DTB70" / "Animal1" / "img", [1, 2, 3], digits=5)
    return root


def totb(root: Path, third: Sequence[object] = BOXES[2]) -> Path:
    folder = root / "TOTB" / "Beaker_1"
    put(folder / "groundtruth.txt", rows([*BOXES[:2], third]))
    put(folder / "full_occlusion.txt", "0,0,0")
    put(folder / "out_of_view.txt", "0,0,1")
    named(folder / "img", "img{:05d}.jpg")
    return root


def vasttrack(root: Path, third: Sequence[object] = BOXES[2]) -> Path:
    folder = root / "VastTrack" / "test" / "Adhesive Tape" / "Adhesive Tape-38"
    put(folder / "Groundtruth.txt", rows([*BOXES[:2], third]))
    images(folder / "img", [1, 2, 3, 4])  # the ground truth decides
    return root


def avist(root: Path, third: Sequence[object] = BOXES[2]) -> Path:
    put(root / "avist" / "anno" / "air_show.txt", rows([*BOXES[:2], third], " "))
    for flag, values in (("full_occlusion", "0,0,0"), ("out_of_view", "0,0,1")):
        put(root / "avist" / flag / f"air_show_{flag}.txt", values)
    named(root / "avist" / "sequences" / "air_show", "img_{:05d}.jpg")
    return root


def visdrone(root: Path) -> Path:
    folder = root / "VisDrone2019-SOT-test-dev"
    put(folder / "annotations" / "uav0000011_00000_s.txt", rows(BOXES))
    named(folder / "sequences" / "uav0000011_00000_s", "img{:07d}.jpg")
    return root


def vot_lt(root: Path, third: Sequence[object] = BOXES[2]) -> Path:
    put(root / "VOT2018-LT" / "bike1" / "groundtruth.txt", rows([*BOXES[:2], third]))
    images(root / "VOT2018-LT" / "bike1" / "color", [1, 2, 3])
    return root


def tnl2k(root: Path, third: Sequence[object] = BOXES[2]) -> Path:
    put(root / "TNL2K_test_subset" / "Bullet_video_08_done" / "groundtruth.txt", rows([*BOXES[:2], third]))
    images(root / "TNL2K_test_subset" / "Bullet_video_08_done" / "imgs", [1, 2, 3])
    return root


def named(folder: Path, form: str) -> None:
    for number in (1, 2, 3):
        put(folder / form.format(number))


def plain(root: Path) -> Path:
    put(root / "Mine" / "cat" / "groundtruth.txt", rows(BOXES))
    images(root / "Mine" / "cat", [1, 2, 3], digits=4)
    return root


TREES = [
    ("GOT10K-val", got10k, "GOT-10k_Val_000001", "00000001.jpg", 180, 0),
    ("LASOT", lasot, "airplane-1", "00000001.jpg", 280, 1),
    ("NFS30", nfs, "airboard_1", "00001.jpg", 100, 0),
    ("TC128", tc128, "Airport_ce", "0002.jpg", 128, 1),
    ("DTB70", dtb70, "Animal1", "00001.jpg", 70, 1),
    ("Mine", plain, "cat", "0001.jpg", 1, 1),
    ("TOTB", totb, "Beaker_1", "img00001.jpg", 225, 1),
    ("VastTrack", vasttrack, "Adhesive Tape-38", "00000001.jpg", 3500, 1),
    ("AVisT", avist, "air_show", "img_00001.jpg", 120, 0),
    ("VisDrone-SOT", visdrone, "uav0000011_00000_s", "img0000001.jpg", 35, 1),
    ("VOT2018-LT", vot_lt, "bike1", "00000001.jpg", 35, 0),
    ("TNL2K", tnl2k, "Bullet_video_08_done", "00000001.jpg", 700, 1),
]


@pytest.mark.parametrize(("dataset", "tree", "name", "first", "expected", "origin"), TREES)
def test_each_layout_is_read(
    tmp_path: Path, dataset: str, tree: object, name: str, first: str, expected: int, origin: int
) -> None:
    tree(tmp_path)  # type: ignore[operator]
    benchmark = load_benchmark(dataset, tmp_path, images=True)
    sequence, = benchmark.sequences
    assert (benchmark.name, sequence.name, benchmark.expected) == (dataset, name, expected)
    assert (sequence.origin, layout_of(dataset).origin) == (origin, origin)
    assert [len(sequence), len(sequence.frames), sequence.frames[0].name] == [3, 3, first]
    step = 8 if dataset == "NFS30" else 1  # 240 boxes/s beside 30 images/s
    assert sequence.file_xywh[:, 0].tolist() == [10, 10 + step, 10 + 2 * step]
    assert sequence.file_xywh[0, 1:].tolist() == [20, 30, 40]
    without = load_benchmark(dataset, tmp_path, images=False).sequences[0]
    assert without.frames == ()
    assert np.array_equal(without.boxes_xywh, sequence.boxes_xywh)


def test_names_are_found_however_they_are_written() -> None:
    assert [layout.name for name in ("got10k", "GOT-10k-test", "LaSOT", "GOT10K_val", "TColor128")
            if (layout := layout_of(name))] == ["GOT10K", "GOT10K", "LASOT", "GOT10K-val", "TC128"]
    assert layout_of("Mine").name == "Mine"
    assert "UAV123" in LAYOUTS


def test_a_part_of_a_longer_video_has_its_own_frames(tmp_path: Path) -> None:
    benchmark = load_benchmark("UAV123", uav123(tmp_path), images=True)
    sequence, = benchmark.sequences
    assert (sequence.frames[0].name, sequence.frames[-1].name, len(sequence)) == ("000751.jpg", "001627.jpg", 877)
    assert np.isnan(sequence.boxes_xywh[-1]).all()
    assert len(benchmark.missing) == 122


def test_frames_end_where_lasots_ground_truth_does(tmp_path: Path) -> None:
    put(lasot(tmp_path) / "LaSOT" / "airplane" / "airplane-1" / "img" / "00000004.jpg")
    benchmark = load_benchmark("LASOT", tmp_path, images=True)
    assert [frame.name for frame in benchmark.sequences[0].frames] == [f"0000000{n}.jpg" for n in (1, 2, 3)]
    assert "airplane-1: 3 boxes for 4 images; cut to the shorter" in benchmark.notes


def test_nfs_in_either_form_and_one_frame_off(tmp_path: Path) -> None:
    folder = nfs(tmp_path, count=80) / "NFS" / "airboard_1" / "30"
    images(folder / "airboard_1", range(4, 12), digits=5)
    (folder / "airboard_1.txt").rename(folder / "airboard_1" / "airboard_1.txt")
    benchmark = load_benchmark("NFS30", tmp_path, images=True)
    assert benchmark.sequences[0].boxes_xywh[:, 0].tolist() == [10 + 8 * i for i in range(10)]
    assert len(benchmark.sequences[0].frames) == 10
    assert benchmark.notes == ("airboard_1: 10 boxes for 11 images; cut to the shorter",)
    images(folder / "airboard_1", [12], digits=5)
    with pytest.raises(UserError, match="80 boxes for 12 images"):
        load_benchmark("NFS30", tmp_path, images=True)


def test_a_test_set_gives_away_the_first_box_only(tmp_path: Path) -> None:
    for dataset, tree, count in (("GOT10K", lambda root: got10k(root, "test"), 3), ("TrackingNet", trackingnet, 4)):
        sequence, = load_benchmark(dataset, tree(tmp_path), images=True).sequences
        assert len(sequence) == len(sequence.frames) == count
        assert sequence.boxes_xywh[0].tolist() == BOXES[0]
        assert np.isnan(sequence.boxes_xywh[1:]).all()
        assert sequence.frames[-1].stem.lstrip("0") in ("3", "10")  # by number: 10 comes after 2


def test_absence_and_size_are_read(tmp_path: Path) -> None:
    for dataset, tree in (("LASOT", lasot), ("GOT10K-val", got10k)):
        sequence, = load_benchmark(dataset, tree(tmp_path), images=False).sequences
        assert sequence.absent is not None
        assert sequence.absent.tolist() == [False, False, True]
    assert sequence.image_wh == (100, 50)
    tmp_path.joinpath("GOT10K", "val", "GOT-10k_Val_000001", "cover.label").unlink()
    assert "no file tells" in load_benchmark("GOT10K-val", tmp_path, images=False).notes[0]


ABSENT = [("TOTB", totb, BOXES[2]), ("VastTrack", vasttrack, [0] * 4), ("AVisT", avist, BOXES[2]),
          ("VOT2018-LT", vot_lt, ["nan"] * 4), ("TNL2K", tnl2k, [0] * 4)]


@pytest.mark.parametrize(("dataset", "tree", "third"), ABSENT)
def test_absence_is_read_and_left_out(tmp_path: Path, dataset: str, tree: object, third: Sequence[object]) -> None:
    benchmark = load_benchmark(dataset, tree(tmp_path, third), images=True)  # type: ignore[operator]
    sequence, = benchmark.sequences
    assert sequence.absent is not None
    assert sequence.absent.tolist() == [False, False, True]
    assert benchmark.notes == (("Adhesive Tape-38: 3 boxes for 4 images; cut to the shorter",)
                               if dataset == "VastTrack" else ())
    scores = score_results(benchmark, results(tmp_path, benchmark, BOXES), allow_missing=True)
    assert scores.facts["convention"] == ("pytracking" if dataset == "AVisT" else "lasot")
    assert scores.values["precision"] == pytest.approx(2 / 3)


def oxuva(root: Path) -> Path:
    lines = [f"vid0000,obj0001,5,bear,unknown,true,{frame},{sides}" for frame, sides in (
        (30, "present,0.1,0.4,0.2,0.6"), (33, "absent,-1,-1,-1,-1"), (35, "present,0.2,0.5,0.2,0.6"))]
    put(root / "annotations" / "dev.csv", "\n".join([*lines, lines[0].replace("obj0001", "obj0000")]) + "\n")
    for number in range(29, 37):
        write_picture(root / "images" / "dev" / "vid0000" / f"{number:06d}.jpeg", np.zeros((50, 100, 3), np.uint8))
    return root


def test_oxuva_has_an_annotation_a_second_in_shares_of_the_picture(tmp_path: Path) -> None:
    benchmark = load_benchmark("OxUvA", oxuva(tmp_path), images=True)
    assert benchmark.expected == 200
    sequence, other = benchmark.sequences
    assert (sequence.name, other.name, len(other)) == ("vid0000_obj0001", "vid0000_obj0000", 1)
    assert [frame.name for frame in sequence.frames] == [f"{number:06d}.jpeg" for number in range(30, 36)]
    assert sequence.boxes_xywh[[0, 5]].tolist() == [pytest.approx([10, 10, 30, 20]), pytest.approx([20, 10, 30, 20])]
    assert np.isnan(sequence.boxes_xywh[1:5]).all()
    assert sequence.annotated.tolist() == [True, False, False, True, False, True]
    # The frames that nobody annotated do not count: right in two of three, and nothing is there in the third.
    folder = results(tmp_path, benchmark, [[10, 10, 30, 20]] * 5 + [[20, 10, 30, 20]])
    put(folder / "vid0000_obj0000.txt", "10,10,30,20\n")
    scores = score_results(benchmark, folder, allow_missing=True)
    assert scores.by_sequence["precision"].tolist() == pytest.approx([2 / 3, 1])
    # A video without its images is left out; all that is told of one that is there must be right.
    lines = (tmp_path / "annotations" / "dev.csv").read_text()
    put(tmp_path / "annotations" / "dev.csv", lines + lines.replace("vid0000", "vid0007"))
    assert len(load_benchmark("OxUvA", tmp_path, images=False).sequences) == 2
    for frame, side in (("x", "1"), ("30", "1.5"), ("30", "nan")):
        put(tmp_path / "annotations" / "dev.csv", f"vid0000,obj0000,5,bear,unknown,true,{frame},present,0,{side},0,1\n")
        with pytest.raises(UserError, match=r"dev.csv line 1: .*expected 12 columns"):
            load_benchmark("OxUvA", tmp_path, images=True)


def test_oxuva_needs_its_pictures(tmp_path: Path) -> None:
    for path in (oxuva(tmp_path) / "images" / "dev" / "vid0000").iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"0 of the 6 images of vid0000_obj0001 are in .*so its images must be there"):
        load_benchmark("OxUvA", tmp_path, images=False)


@pytest.mark.parametrize(("path", "text", "message"), [
    ("airplane/airplane-1/groundtruth.txt", "1,2,3\n", "line 1"),
    ("airplane/airplane-1/groundtruth.txt", rows(BOXES[:2]), "told for 3 of 2 frames"),
    ("airplane/airplane-1/groundtruth.txt", rows([*BOXES, BOXES[0]]), "4 boxes for 3 images"),
    ("airplane/airplane-1/groundtruth.txt", rows([[1, 2, 0, 0]] * 3), "the first box has no size"),
    ("airplane/airplane-1/full_occlusion.txt", "0,1", "differ in length"),
    ("airplane/airplane-1/full_occlusion.txt", "a,b,c", "expected one number per frame"),
])
def test_broken_files_are_named(tmp_path: Path, path: str, text: str, message: str) -> None:
    put(lasot(tmp_path) / "LaSOT" / path, text)
    with pytest.raises(UserError, match=message):
        load_benchmark("LASOT", tmp_path, images=True)


def test_an_empty_folder_is_told_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"UAV123; expected anno/UAV123/bike1\.txt"):
        load_benchmark("UAV123", tmp_path, images=False)


# Scores


def results(root: Path, benchmark: Benchmark, boxes: Sequence[Sequence[float]]) -> Path:
    """Return a tracker's folder with the same boxes, in the files' own origin, for every sequence."""
    folder = root / "result" / benchmark.name / "Ocean"
    for sequence in benchmark.sequences:
        put(folder / f"{sequence.name}.txt", rows(boxes))
    return folder


def test_lasot_leaves_absent_frames_out_of_the_counts_but_not_of_the_length(tmp_path: Path) -> None:
    benchmark = load_benchmark("LASOT", lasot(tmp_path), images=False)
    assert layout_of("LASOT").convention == "lasot"
    scores = score_results(benchmark, results(tmp_path, benchmark, BOXES), convention="lasot", allow_missing=True)
    # Right in all frames: two of three count, at every threshold but 1.
    assert scores.curves["success"].tolist() == pytest.approx([2 / 3] * 20 + [0])
    assert scores.values["precision"] == scores.values["norm_precision"] == pytest.approx(2 / 3)
    # A lost target is replaced by the box before, 1 px off: IoU 29 / 31 in frame 1.
    lost = [BOXES[0], [np.nan] * 4, BOXES[2]]
    scores = score_results(benchmark, results(tmp_path, benchmark, lost), convention="lasot", allow_missing=True)
    # At 0.95 only the first frame, set to the truth.
    assert scores.curves["success"][-2] == pytest.approx(1 / 3)
    assert scores.counts["repaired_boxes"] == 1
    # A longer result is cut, a shorter one refused (calc_seq_err_robust.m, and the index error it runs into).
    longer = score_results(benchmark, results(tmp_path, benchmark, [*lost, BOXES[2]]), convention="lasot",
                           allow_missing=True)
    assert longer.values["success"] == scores.values["success"]
    assert longer.mismatches[0].action == "surplus rows left out"
    with pytest.raises(UserError, match="2 rows for 3 frames, which the lasot convention refuses"):
        score_results(benchmark, results(tmp_path, benchmark, lost[:2]), convention="lasot", allow_missing=True)


def test_a_frame_without_annotation_is_what_pysot_makes_of_it(tmp_path: Path) -> None:
    benchmark = load_benchmark("UAV123", uav123(tmp_path), images=False)
    scores = score_results(benchmark, results(tmp_path, benchmark, [BOXES[0]] * 877), convention="pysot",
                           allow_missing=True)
    assert scores.curves["success"][0] == pytest.approx(876 / 877)
    assert scores.values["precision"] == 1
    assert scores.counts["invalid_rows"] == 1


def test_got10k_by_hand(tmp_path: Path) -> None:
    benchmark = load_benchmark("GOT10K-val", got10k(tmp_path, cover="8\n4\n8\n"), images=False)
    # Cut at 100 x 50, the truth is 30 x 30 from y = 20. Frame 1 is right, frame 2 is moved by 15: 15 / 45.
    folder = results(tmp_path, benchmark, [[0, 0, 1, 1], [11, 20, 30, 99], [27, 20, 30, 40]])
    scores = score_results(benchmark, folder, allow_missing=True)
    assert scores.frames == (2,)
    assert scores.values == pytest.approx({"ao": 2 / 3, "sr50": 0.5, "sr75": 0.5})
    assert scores.curves["ao"][[0, 33, 34, 99, 100]].tolist() == [1, 1, 0.5, 0.5, 0]
    hidden = load_benchmark("GOT10K-val", got10k(tmp_path, cover="8\n4\n0\n"), images=False)
    assert score_results(hidden, folder, allow_missing=True).values == {"ao": 1, "sr50": 1, "sr75": 1}
    put(folder / "GOT-10k_Val_000001.txt", rows(BOXES[:2]))
    with pytest.raises(UserError, match="2 rows for 3 frames"):
        score_results(benchmark, folder, allow_missing=True)


def test_the_command_scores_got10k(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark = load_benchmark("GOT10K-val", got10k(tmp_path), images=False)
    own = results(tmp_path, benchmark, BOXES) / "GOT-10k_Val_000001.txt"
    # The got10k toolkit's own form is found as well.
    put(own.parent / own.stem / f"{own.stem}_001.txt", own.read_text())
    own.unlink()
    command = ["--dataset_dir", str(tmp_path), "--dataset", "GOT10K-val", "--tracker_result_dir",
               str(tmp_path / "result"), "--show_video_level"]
    with pytest.raises(UserError, match="179 of 180 sequences of GOT10K-val are missing"):
        call("eval", command)
    assert call("eval", [*command, "--allow-missing", "--vis", "--out", str(tmp_path / "out")]) == 0
    row = next(line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("Ocean"))
    assert row == ["Ocean", "1.000", "1.000", "1.000", "1/180", "1"]
    record = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert record["trackers"][0]["by_sequence"][own.stem]["sr75"] == 1
    assert (tmp_path / "out" / "success.png").is_file()
    with pytest.raises(UserError, match="--overlap: means nothing for GOT10K-val"):
        call("eval", [*command, "--overlap", "exact"])


def test_spellings_that_mean_two_sequences_are_not_guessed(tmp_path: Path) -> None:
    root = tmp_path / "UAV123" / "anno" / "UAV123"
    put(root / "car11.txt", rows(BOXES))
    put(root / "car1_1.txt", rows(BOXES))
    benchmark = load_benchmark("UAV123", tmp_path, images=False)
    put(tmp_path / "T" / "car11.txt", rows(BOXES))
    scores = score_results(benchmark, tmp_path / "T", convention="pysot", allow_missing=True)
    assert scores.names == ("car11",)


# Archives for the servers


def test_submissions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for dataset, tree, count in (("GOT10K", lambda root: got10k(root, "test"), 3), ("TrackingNet", trackingnet, 4)):
        sequence, = load_benchmark(dataset, tree(tmp_path), images=False).sequences
        folder = tmp_path / "result" / dataset / "Ocean"
        write_result(folder / f"{sequence.name}.txt", np.array([BOXES[0]] * count, float), dataset=dataset)
        put(folder / ".run" / f"{sequence.name}.json", json.dumps({"seconds": 1.5, "frames": 3}))
        command = ["--dataset_dir", str(tmp_path), "--dataset", dataset, "--tracker_result_dir",
                   str(tmp_path / "result"), "--allow-missing", "--out", str(tmp_path / "out")]
        assert call("eval", command) == 0
        archive = tmp_path / "out" / f"{dataset}_Ocean.zip"
        first = archive.read_bytes()
        assert f"wrote {archive}" in capsys.readouterr().out
        with zipfile.ZipFile(archive) as packed:
            texts = {name: packed.read(name).decode() for name in packed.namelist()}
        name = sequence.name
        both = {f"{name}/{name}_001.txt", f"{name}/{name}_time.txt"}
        expected = {f"{name}.txt"} if dataset == "TrackingNet" else both
        assert set(texts) == expected
        assert all(len(text.splitlines()) == count for text in texts.values())
        assert next(iter(texts.values())).startswith("10.0000,20.0000,30.0000,40.0000\n")  # 0-based
        assert call("eval", command) == 0
        assert archive.read_bytes() == first
        put(folder / f"{name}.txt", rows(BOXES[:2]))
        with pytest.raises(UserError, match=f"2 rows for {count} images"):
            call("eval", command)
        assert archive.read_bytes() == first
