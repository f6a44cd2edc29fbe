"""Preparing, checking and packing training data: from COCO and GOT-10k trees with every trap in them."""

import contextlib
import json
import logging
import os
import shlex
import signal
import sqlite3
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from raw_trees import COCO_DROPPED, coco_tree, picture, write_picture

from lib import commands
from lib.config_file import load_config
from lib.crops import crop511, mean_colour
from lib.datasets.dataset import build_dataset
from lib.datasets.index import load_index
from lib.datasets.prepare import Box, unwanted
from lib.datasets.prepare.__main__ import main
from lib.datasets.prepare.work import Journal, read_journal
from lib.errors import UserError
from lib.options import PrepareOptions

ROOT = Path(__file__).resolve().parents[1]
OPTIONS = PrepareOptions(source="COCO", root=ROOT, out=ROOT)


def prepare(source: str, root: Path, out: Path, *flags: str, jobs: int = 1) -> int:
    return main([source, "--root", str(root), "--out", str(out), "--jobs", str(jobs), *flags])


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def coco(tmp_path):
    root = tmp_path / "coco"
    (root / "annotations").mkdir(parents=True)
    annotation = coco_tree(root)
    (root / "annotations" / "instances_train2017.json").write_text(json.dumps(annotation), encoding="utf-8")
    return root


def got10k_tree(root: Path) -> None:
    names = []
    for name, frames in (("GOT-10k_Train_000001", 5), ("GOT-10k_Train_000002", 4), ("Ünïcode", 3)):
        folder = root / "train" / name
        rows = [f"{10 + k}.0000,20.0000,40.0000,30.0000" for k in range(frames)]
        for k in range(frames):
            write_picture(folder / f"{k + 1:08d}.jpg", picture(seed=k))
        names.append(name)
        (folder / "groundtruth.txt").write_text("\n".join(rows) + "\n", encoding="utf-8")
    first = root / "train" / names[0]
    (first / "absence.label").write_text("0\n1\n0\n0\n0\n", encoding="utf-8")
    (first / "cover.label").write_text("8\n8\n0\n2\n8\n", encoding="utf-8")
    (root / "train" / names[1] / "00000003.jpg").unlink()
    (root / "train" / "list.txt").write_text("\n".join(names) + "\n", encoding="utf-8")


def test_coco_with_every_trap(coco, tmp_path, capsys):
    out = tmp_path / "data"
    assert prepare("coco", coco, out) == 0
    index = json.loads((out / "train.json").read_text(encoding="utf-8"))
    assert set(index) == {f"train2017/{name}" for name in
                          ("000000000009", "gray", "cmyk", "größe/ü 1", "same", "same.png")}
    assert index["train2017/000000000009"] == {
        "00": {"000000": [30.5, 20, 80.5, 60]}, "01": {"000000": [5, 5, 25, 25]}}
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["dropped"] == COCO_DROPPED
    assert manifest["crops"] == manifest["tracks"] == 7
    crops = files_below(out / "crop511")
    assert crops == {f"{video}/000000.{track}.x.jpg" for video, tracks in index.items() for track in tracks}
    printed = capsys.readouterr().out
    assert "7 crops of 7 objects on 6 frames of 6" in printed
    assert "train2017/cut.jpg: a JPEG that is cut short" in printed
    assert "train2017/gone.jpg: no such file" in printed
    assert "1  a crowd" in printed
    assert "    COCO:\n      PATH: " in printed
    assert cv2.imread(str(out / "preview.png")).shape == (4 * 256, 6 * 256, 3)


def test_the_crop_is_the_one_of_the_geometry(coco, tmp_path):
    prepare("COCO", coco, tmp_path / "data")
    image = cv2.imread(str(coco / "train2017" / "000000000009.jpg"))
    crop = cv2.imread(str(tmp_path / "data" / "crop511" / "train2017" / "000000000009" / "000000.00.x.jpg"))
    expected = crop511(image, [30.5, 20, 80.5, 60], fill=mean_colour(image))
    assert np.abs(crop.astype(int) - expected).mean() < 1.5, "but for the JPEG"


def test_got10k_with_every_trap(tmp_path, capsys):
    got10k_tree(tmp_path / "raw")
    assert prepare("got10k", tmp_path / "raw", tmp_path / "data") == 0
    index = json.loads((tmp_path / "data" / "train.json").read_text(encoding="utf-8"))
    frames = {video: [int(f) for f in tracks["00"]] for video, tracks in index.items()}
    assert frames == {"GOT-10k_Train_000001": [1, 5], "GOT-10k_Train_000002": [1, 2, 4], "Ünïcode": [1, 2, 3]}
    assert index["Ünïcode"]["00"]["000002"] == [11, 20, 51, 50]
    manifest = json.loads((tmp_path / "data" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["dropped"] == {"absent": 2, "less than 0.3 visible": 1, "picture missing": 1}
    assert "GOT-10k_Train_000002: no picture for line 3" in capsys.readouterr().out


def test_a_broken_video_does_not_end_the_work_and_is_tried_again(tmp_path, capsys):
    got10k_tree(tmp_path / "raw")
    truth = tmp_path / "raw" / "train" / "Ünïcode" / "groundtruth.txt"
    whole = truth.read_text(encoding="utf-8")
    truth.write_text(whole.replace("12.0000", "twelve"), encoding="utf-8")
    prepare("got10k", tmp_path / "raw", tmp_path / "data")
    assert f"{truth} line 3: 'twelve,20.0000,40.0000,30.0000'" in capsys.readouterr().out
    truth.write_text(whole, encoding="utf-8")
    prepare("got10k", tmp_path / "raw", tmp_path / "data")
    assert "Ünïcode" in (tmp_path / "data" / "train.json").read_text(encoding="utf-8")


def test_any_number_of_processes_and_any_interruption_give_the_same_files(coco, tmp_path):
    for out, jobs in (("one", 1), ("two", 2)):
        prepare("coco", coco, tmp_path / out, jobs=jobs)
    assert files_below(tmp_path / "one") == files_below(tmp_path / "two")
    for name in ("train.json", "pictures.json", "preview.png"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    with sqlite3.connect(tmp_path / "two" / "journal.db") as journal:  # as a kill leaves it
        journal.execute("DELETE FROM tasks WHERE name > 'train2017/g'")
    (tmp_path / "two" / "train.json").unlink()
    prepare("coco", coco, tmp_path / "two")
    assert (tmp_path / "one" / "train.json").read_bytes() == (tmp_path / "two" / "train.json").read_bytes()


def test_a_killed_run_goes_on_where_it_stopped(tmp_path):
    root, out = tmp_path / "raw", tmp_path / "data"
    for video in range(12):
        folder = root / f"v{video:02d}"
        for k in range(30):
            write_picture(folder / f"{k:08d}.jpg")
        (folder / "groundtruth.txt").write_text("10,20,40,30\n" * 30, encoding="utf-8")
    command = [sys.executable, "-m", "lib.datasets.prepare", "got10k", "--root", str(root), "--out", str(out),
               "--jobs", "2"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < until:
        if (out / "journal.db").is_file() and finished(out) > 3:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.005)
    process.wait()
    done = {*read_journal(out)[1]}
    assert 3 < len(done) < 12
    times = {path: path.stat().st_mtime_ns for name in done for path in (out / "crop511" / name).iterdir()}
    prepare("got10k", root, out)
    assert times == {path: path.stat().st_mtime_ns for path in times}, "what was done was not done again"
    assert len(read_journal(out)[1]) == 12
    assert load_index(out / "train.json").num_tracks == 12
    assert main(["check", str(out), "--jobs", "1"]) == 0


def finished(out: Path) -> int:
    """Return how many tasks the journal of a running prepare holds."""
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(out / "journal.db")) as journal:
        return journal.execute("SELECT COUNT(*) FROM tasks").fetchone()[0]
    return 0


def test_other_settings_need_another_folder(coco, tmp_path):
    prepare("coco", coco, tmp_path / "data")
    with pytest.raises(UserError, match=r"begun with min_side 8\.0, now it is 20\.0"):
        prepare("coco", coco, tmp_path / "data", "--min-side", "20")


def test_a_first_try_that_made_no_crop_binds_the_folder_to_nothing(tmp_path):
    got10k_tree(tmp_path / "raw")
    with pytest.raises(UserError, match="not one usable box"):
        prepare("got10k", tmp_path / "raw", tmp_path / "data", "--min-side", "5000")
    with pytest.raises(UserError, match="no folder with groundtruth"):
        prepare("got10k", tmp_path / "raw", tmp_path / "other", "--split", "tarin")
    assert not (tmp_path / "other").exists()
    assert prepare("got10k", tmp_path / "raw", tmp_path / "data") == 0
    assert load_index(tmp_path / "data" / "train.json").num_tracks == 3


def test_a_damaged_journal_is_one_line(coco, tmp_path):
    prepare("coco", coco, tmp_path / "data")
    (tmp_path / "data" / "journal.db").write_bytes(b"no database" * 500)
    for command in (["check", str(tmp_path / "data")], ["coco", "--root", str(coco), "--out", str(tmp_path / "data")]):
        with pytest.raises(UserError, match=r"journal\.db: damaged"):
            main(command)


def test_a_part_of_got10k_that_was_downloaded(tmp_path, caplog):
    got10k_tree(tmp_path / "raw")
    with (tmp_path / "raw" / "train" / "list.txt").open("a", encoding="utf-8") as file:
        file.write("GOT-10k_Train_009335\n")
    with caplog.at_level(logging.WARNING):
        assert prepare("got10k", tmp_path / "raw", tmp_path / "data") == 0
    assert "names 4 videos, 1 of them are not there" in caplog.text
    assert "GOT-10k_Train_009335" in caplog.text


def test_the_last_line_is_the_command_that_trains_on_it(coco, tmp_path, capsys):
    for flags, form in (([], "crop511"), (["--no-crops"], "raw")):
        out = tmp_path / f"it's {form}: #1"
        prepare("coco", coco, out, *flags)
        words = shlex.split(capsys.readouterr().out.strip().splitlines()[-1])
        assert words[:2] == ["python", "tracking/train_ocean.py"]
        options = commands.parse("train", words[2:])
        config = load_config(ROOT / options.cfg, overrides=options.overrides)
        dataset = build_dataset(config)
        assert config.TRAIN.WHICH_USE == ["COCO"]
        assert f"snapshot/it_s_{form}_1" == config.CHECKPOINT_DIR, "no character that YAML or a shell would read"
        assert len(dataset) == config.DATASET.PAIRS
        assert dataset[0].search.shape == (3, 255, 255)


def test_two_runs_at_once_are_refused(coco, tmp_path, monkeypatch):
    monkeypatch.setattr("lib.datasets.prepare.work._PATIENCE", 0.0)
    with Journal(tmp_path / "data", {}), pytest.raises(UserError, match="another prepare is at work"):
        prepare("coco", coco, tmp_path / "data")


def test_check_tells_whole_from_broken_and_prepare_mends(coco, tmp_path, capsys):
    out = tmp_path / "data"
    prepare("coco", coco, out)
    assert main(["check", str(out), "--jobs", "1"]) == 0
    first = out / "crop511" / "train2017" / "000000000009"
    (first / "000000.00.x.jpg").write_bytes(b"\xff\xd8 and nothing more")
    (first / "000000.01.x.jpg").unlink()
    capsys.readouterr()
    assert main(["check", str(out), "--jobs", "1"]) == 1
    printed = capsys.readouterr().out
    assert "000000.00.x.jpg: damaged" in printed
    assert "000000.01.x.jpg: No such file" in printed
    assert "2 faults" in printed
    prepare("coco", coco, out)
    assert main(["check", str(out), "--jobs", "1"]) == 0
    with (out / "train.json").open("a", encoding="utf-8") as file:
        file.write(" ")
    assert main(["check", str(out), "--jobs", "1"]) == 1
    (out / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"manifest\.json: no such file"):
        main(["check", str(out)])


def test_without_crops_the_index_is_the_same(coco, tmp_path, capsys):
    prepare("coco", coco, tmp_path / "crops")
    prepare("coco", coco, tmp_path / "bare", "--no-crops")
    for name in ("train.json", "pictures.json"):
        assert (tmp_path / "crops" / name).read_bytes() == (tmp_path / "bare" / name).read_bytes()
    assert not (tmp_path / "bare" / "crop511").exists()
    assert main(["check", str(tmp_path / "bare"), "--jobs", "1"]) == 0
    capsys.readouterr()
    (coco / "train2017" / "gray.jpg").unlink()
    assert main(["check", str(tmp_path / "bare"), "--jobs", "1"]) == 1
    assert "train2017/gray.jpg: no such picture" in capsys.readouterr().out


def test_pack_keeps_every_byte_and_goes_on(coco, tmp_path, monkeypatch):
    out = tmp_path / "data"
    prepare("coco", coco, out)
    monkeypatch.setattr("lib.datasets.prepare.upkeep.ROWS", 3)
    assert main(["pack", str(out), "--jobs", "1"]) == 0
    archives = sorted((out / "packed").glob("*.tar"))
    assert len(archives) == 3
    found = {}
    for archive in archives:
        with tarfile.open(archive) as tar:
            found.update({info.name: tar.extractfile(info).read() for info in tar})
    crops = out / "crop511"
    assert found == {name: (crops / name).read_bytes() for name in files_below(crops)}
    times = [archive.stat().st_mtime_ns for archive in archives]
    archives[1].unlink()
    main(["pack", str(out), "--jobs", "1"])
    again = [archive.stat().st_mtime_ns for archive in archives]
    assert [a == b for a, b in zip(times, again, strict=True)] == [True, False, True]
    assert main(["check", str(out), "--jobs", "1"]) == 0
    data = bytearray(archives[2].read_bytes())
    data[2000] ^= 1
    archives[2].write_bytes(data)
    assert main(["check", str(out), "--jobs", "1"]) == 1


def test_pack_refuses_a_broken_crop(coco, tmp_path):
    prepare("coco", coco, tmp_path / "data")
    broken = tmp_path / "data" / "crop511" / "train2017" / "gray" / "000000.00.x.jpg"
    broken.write_bytes(b"")
    with pytest.raises(UserError, match=r"gray/000000\.00\.x\.jpg: not an image"):
        main(["pack", str(tmp_path / "data"), "--jobs", "1"])


@pytest.mark.parametrize(("flags", "words"), [
    (["--quality", "0"], "quality.* 1 to 100"), (["--jobs", "0"], "jobs.*1 to 1024"),
    (["--max-aspect", "0.5"], "max_aspect.*1 to"),
])
def test_flags_are_checked(coco, tmp_path, flags, words):
    with pytest.raises(UserError, match=words):
        main(["coco", "--root", str(coco), "--out", str(tmp_path / "data"), *flags])


def test_raw_data_that_are_not_there_or_not_in_form(tmp_path):
    with pytest.raises(UserError, match=r"none: no such folder; expected COCO"):
        prepare("coco", tmp_path / "none", tmp_path / "data")
    (tmp_path / "raw").mkdir()
    with pytest.raises(UserError, match=r"expected annotations/instances_train2017\.json or one JSON"):
        prepare("coco", tmp_path / "raw", tmp_path / "data")
    with pytest.raises(UserError, match=r"no folder with groundtruth\.txt"):
        prepare("got10k", tmp_path / "raw", tmp_path / "data2")
    (tmp_path / "raw" / "x.json").write_text("[1]", encoding="utf-8")
    with pytest.raises(UserError, match="no such folder below"):
        prepare("coco", tmp_path / "raw", tmp_path / "data4", "--pictures", str(tmp_path))
    (tmp_path / "raw" / "images").mkdir()
    with pytest.raises(UserError, match="not in COCO's form"):
        prepare("coco", tmp_path / "raw", tmp_path / "data3")


@pytest.mark.parametrize("name", ["../evil.jpg", "/etc/passwd", "a/../../b.jpg"])
def test_a_hostile_file_name_leads_nowhere(coco, tmp_path, name):
    path = coco / "annotations" / "instances_train2017.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    data["images"][0]["file_name"] = name
    path.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(UserError, match="no relative path below"):
        prepare("coco", coco, tmp_path / "data")


@pytest.mark.parametrize(("box", "visible", "reason"), [
    ((10, 10, 30, 30), 1.0, None), ((10, 10, 17.9, 30), 1.0, "a side under 8 px"), ((10, 10, 30, 30), 0.2, "visible"),
    ((-50, 10, 10, 30), 1.0, "visible"), ((-5, 10, 15, 30), 1.0, None), ((0, 0, 96, 96), 1.0, "over 0.9"),
    ((1, 1, 99, 10), 1.0, "longer than 10"), ((30, 30, 10, 10), 1.0, "no area"),
    ((100, 0, 130, 30), 1.0, "outside"), ((float("inf"), 0, 1, 1), 1.0, "not a number"),
])
def test_the_filters_by_hand(box, visible, reason):
    found = unwanted(Box(0, box, visible), OPTIONS, width=100, height=100)
    assert (found is None) if reason is None else (found is not None and reason in found)


def test_the_border_filter():
    strict = replace(OPTIONS, border="drop")
    assert unwanted(Box(0, (0.5, 10, 30, 30)), strict, width=100, height=100) == "at the border"
    assert unwanted(Box(0, (2, 10, 30, 98)), strict, width=100, height=100) is None
    assert unwanted(Box(0, (0.5, 10, 30, 30)), OPTIONS, width=100, height=100) is None


def test_a_misspelt_source_is_told_the_nearest(tmp_path):
    with pytest.raises(UserError, match="GOT10: no source of that name; did you mean GOT10K"):
        prepare("GOT10", tmp_path, tmp_path / "data")


def test_a_full_disk_is_one_line(coco, tmp_path, monkeypatch):
    def full(self, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match="No space left on device"):
        prepare("coco", coco, tmp_path / "data")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(coco, tmp_path):
    (tmp_path / "data").mkdir(mode=0o555)
    with pytest.raises(UserError, match="cannot be written"):
        prepare("coco", coco, tmp_path / "data")


def test_the_real_sample(tmp_path):
    sample = ROOT.parent / "shared" / "data" / "train_sample" / "video"
    if not sample.is_dir():
        pytest.skip(f"{sample} is not there")
    few = tmp_path / "raw"
    few.mkdir()
    names = sorted(path.name for path in sample.iterdir())[:2]
    for name in names:
        (few / name).symlink_to(sample / name)
    (few / "list.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    assert prepare("got10k", few, tmp_path / "data", jobs=2) == 0
    assert load_index(tmp_path / "data" / "train.json").num_tracks == 2


def test_select_keeps_the_videos_that_a_pattern_names(tmp_path):
    index, out = tmp_path / "train.json", tmp_path / "part.json"
    index.write_text(json.dumps({name: {"00": {"000001": [0, 0, 9, 9]}} for name in ("a_1", "a_2", "b_1")}))
    assert main(["select", str(index), "--out", str(out), "--only", "a_*", "--without", "a_2"]) == 0
    assert json.loads(out.read_text()) == {"a_1": {"00": {"000001": [0, 0, 9, 9]}}}
    with pytest.raises(UserError, match="no video is called 'a_3'"):
        main(["select", str(index), "--out", str(out), "--without", "a_3"])
    with pytest.raises(UserError, match="leaves none"):
        main(["select", str(index), "--out", str(out), "--without", "*"])
    with pytest.raises(UserError, match="is the index itself"):
        main(["select", str(index), "--out", str(index)])
