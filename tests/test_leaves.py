"""Boxes, crops, files and errors: the leaves that everything else stands on, by hand-computed numbers."""

import contextlib
import math
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from lib import boxes, crops
from lib.errors import UserError, did_you_mean
from lib.files import atomic_write, check_output, read_json, read_text, sha256_of

ROOT = Path(__file__).resolve().parents[1]


def test_formats_turn_into_each_other() -> None:
    xywh = np.array([[10.0, 20.0, 30.0, 40.0], [0.5, 0.5, 1.0, 2.0]])
    assert boxes.xywh_to_xyxy(xywh).tolist() == [[10, 20, 40, 60], [0.5, 0.5, 1.5, 2.5]]
    assert np.array_equal(boxes.xyxy_to_xywh(boxes.xywh_to_xyxy(xywh)), xywh)


def test_overlap_by_hand() -> None:
    # 10 x 10 boxes moved by 5 in x: 50 / 150; apart: 0; the same: 1; empty with empty: 0
    a = [[0, 0, 10, 10], [0, 0, 10, 10], [3, 4, 5, 6], [1, 1, 0, 0]]
    b = [[5, 0, 10, 10], [20, 0, 10, 10], [3, 4, 5, 6], [1, 1, 0, 0]]
    assert boxes.iou_xywh(a, b) == pytest.approx([1 / 3, 0, 1, 0])
    assert math.isnan(boxes.iou_xywh([np.nan, 0, 1, 1], [0, 0, 1, 1]))


def test_a_polygon_keeps_the_area_of_a_rotated_rectangle() -> None:
    # A square of side 10 standing on its corner: bounding box 10 sqrt(2), so the box gets side 10, plus the rule's 1.
    r = 10 / math.sqrt(2)
    box = boxes.polygon_to_xywh([50, 50 - r, 50 + r, 50, 50, 50 + r, 50 - r, 50])
    assert box == pytest.approx([50 - 5.5, 50 - 5.5, 11, 11])
    # An upright rectangle stays itself, plus 1.
    assert boxes.polygon_to_xywh([0, 0, 20, 0, 20, 10, 0, 10]) == pytest.approx([-0.5, -0.5, 21, 11])


def test_context_square_by_hand() -> None:
    # p = 0.5 (40 + 60) = 50: sqrt(90 * 110)
    assert crops.context_side([40, 60]) == pytest.approx(math.sqrt(9900))


def test_a_subwindow_shows_the_right_pixels_and_fills_the_rest() -> None:
    image = np.arange(20 * 30 * 3, dtype=np.uint32).reshape(20, 30, 3).astype(np.uint8)
    # side 5 around (10, 8): c = 3, so x from 7 to 11 and y from 5 to 9
    patch = crops.subwindow(image, [10, 8], side=5, out_size=5, fill=[1, 2, 3])
    assert np.array_equal(patch, image[5:10, 7:12])
    # half-way, to even: 10.5 - 3 = 7.5 -> 8 and 9.5 - 3 = 6.5 -> 6
    assert np.array_equal(crops.subwindow(image, [10.5, 9.5], side=5, out_size=5, fill=[0] * 3), image[6:11, 8:13])
    corner = crops.subwindow(image, [0, 0], side=5, out_size=5, fill=[9.9, 8.2, 7.0])
    assert np.array_equal(corner[3:, 3:], image[:2, :2])
    assert corner[:3].reshape(-1, 3).tolist() == [[9, 8, 7]] * 15
    far = crops.subwindow(image, [500, 500], side=4, out_size=8, fill=[5, 6, 7])
    assert (far == [5, 6, 7]).all()
    assert far.shape == (8, 8, 3)


def test_a_training_crop_centres_the_object_at_the_promised_scale() -> None:
    image = np.zeros((400, 600, 3), np.uint8)
    box_xyxy = np.array([300.0, 150.0, 360.0, 230.0])
    image[150:230, 300:360] = 255
    crop = crops.crop511(image, box_xyxy, fill=[0, 0, 0])
    seen = np.argwhere(crop[..., 0] > 127)
    top, left = seen.min(axis=0)
    bottom, right = seen.max(axis=0) + 1
    expected = crops.box_in_crop511([60, 80])
    # (out - 1) / (x2 - x1) instead of out / side shrinks by 1/511: under a pixel everywhere.
    assert np.abs(np.array([left, top, right, bottom]) - expected).max() <= 1.5
    scale = 127 / crops.context_side([60, 80])
    assert expected == pytest.approx([255 - 30 * scale, 255 - 40 * scale, 255 + 30 * scale, 255 + 40 * scale])


def test_a_view_maps_its_edges_to_the_first_and_the_last_pixel() -> None:
    matrix = crops.view_matrix([100, 50, 354, 304], out_size=255)
    assert crops.transform_box([100, 50, 354, 304], matrix) == pytest.approx([0, 0, 254, 254])
    turned = np.array([[0.0, -1.0, 10.0], [1.0, 0.0, 0.0]])
    assert crops.transform_box([1, 2, 3, 6], turned) == pytest.approx([4, 1, 8, 3])


def test_mean_colour_is_per_channel() -> None:
    image = np.zeros((2, 2, 3), np.uint8)
    image[0, :, 1] = 200
    assert crops.mean_colour(image).tolist() == [0, 100, 0]
    assert cv2.mean(image)[1] == 100


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    with atomic_write(path) as file:
        file.write("one")
        assert not path.exists()
    with pytest.raises(TypeError), atomic_write(path) as file:
        file.writelines(["two", 3])
    assert path.read_text(encoding="utf-8") == "one"
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_a_refused_write_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(UserError, match="cannot be written"), atomic_write(tmp_path / "file" / "below") as file:
        file.write("x")


def test_only_a_regular_file_is_ever_replaced(tmp_path: Path) -> None:
    """Root's rename would put a plain file in the place of /dev/null, for the whole machine."""
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    for path in (pipe, link, tmp_path):
        with pytest.raises(UserError, match="expected a file"), atomic_write(path) as file:
            file.write("x")
        with pytest.raises(UserError, match=r"--out .*expected a file"):
            check_output(path, flag="--out", folder=False)
    assert pipe.is_fifo()
    assert sorted(tmp_path.iterdir()) == [link, pipe]


def test_a_full_disk_keeps_the_old_file(tmp_path: Path) -> None:
    code = ("import sys; from lib.files import atomic_write, Path; path = Path(sys.argv[1], 'a.bin'); "
            "path.write_bytes(b'old')\n"
            "try:\n  with atomic_write(path, mode='wb') as file: file.write(bytes(2**20))\n"
            "except Exception as error: print(error, path.read_bytes(), len(list(path.parent.iterdir())))")
    small = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o size=64k tmpfs "$0" && exec "$@"', tmp_path]
    if not shutil.which("unshare") or subprocess.run([*small, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no small file system can be mounted here")
    done = subprocess.run([*small, sys.executable, "-c", code, tmp_path], cwd=ROOT, capture_output=True, text=True,
                          check=False)
    assert "a.bin: cannot be written (No space left" in done.stdout, done.stderr
    assert done.stdout.endswith("b'old' 1\n")


def test_what_a_kill_in_the_midst_of_a_write_left_is_cleared_by_the_next_one(tmp_path: Path) -> None:
    code = "import os, sys; from lib.files import atomic_write\nwith atomic_write(sys.argv[1]): os._exit(9)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.txt")], cwd=ROOT, check=False)
    (left,) = tmp_path.glob(".a.txt.*.tmp")
    alive = left.with_name(left.name.replace(left.name.rpartition("-")[2].partition(".")[0], str(os.getppid())))
    alive.touch()
    with atomic_write(tmp_path / "a.txt") as file:
        file.write("whole")
    assert sorted(tmp_path.iterdir()) == [alive, tmp_path / "a.txt"], "another process's is left alone"


def test_unreadable_files_get_one_line(tmp_path: Path) -> None:
    (tmp_path / "bin").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "bad.json").write_text('{"a": [1,\n 2,, 3]}', encoding="utf-8")
    (tmp_path / "deep.json").write_text("[" * 200_000, encoding="utf-8")
    for call, message in [
        (lambda: read_text(tmp_path / "none"), "no such file"),
        (lambda: read_text(tmp_path), "cannot be read"),
        (lambda: read_text(tmp_path / "bin"), "not UTF-8"),
        (lambda: read_json(tmp_path / "bad.json"), "not JSON at line 2 column 4"),
        (lambda: read_json(tmp_path / "deep.json"), "not usable JSON"),
        (lambda: sha256_of(tmp_path / "none"), "cannot be read"),
    ]:
        with pytest.raises(UserError, match=message):
            call()


def test_the_digest_is_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_of(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_users_mistake_is_one_line_and_exit_code_2() -> None:
    code = "from lib.errors import UserError, run\ndef main():\n    raise UserError('a\\nb \\x1b[31m')\nrun(main)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "error: a b  [31m\n")


def test_the_nearest_name_is_offered() -> None:
    assert did_you_mean("batchs", ["BATCH", "GPUS"]) == "; did you mean BATCH?"
    assert did_you_mean("zzz", ["b", "a"]) == "; valid here: a, b"


POOL = """
import os, signal, sys, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from lib.errors import die_with_parent

if __name__ == "__main__":
    pool = ProcessPoolExecutor(1, get_context(sys.argv[1]), die_with_parent, (signal.SIGKILL,))
    print(pool.submit(os.getpid).result(), flush=True)
    time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell a process that its parent was killed")
@pytest.mark.parametrize("start", ["fork", "spawn", "forkserver"])
def test_no_process_of_a_pool_outlives_a_killed_parent(tmp_path: Path, start: str) -> None:
    script = tmp_path / "pool.py"
    script.write_text(POOL, encoding="utf-8")
    command = [sys.executable, str(script), start]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}) as parent:
        assert parent.stdout is not None
        child = Path("/proc") / parent.stdout.readline().decode().strip()
        assert child.is_dir()
        parent.kill()
    ends = time.monotonic() + 20
    with contextlib.suppress(FileNotFoundError):  # gone, or dead and not asked for yet
        while child.joinpath("stat").read_text().rpartition(")")[2].split()[0] != "Z":
            assert time.monotonic() < ends, f"{child} goes on"
            time.sleep(0.05)
