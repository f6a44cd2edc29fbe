"""Pictures on disk: their order in a folder, their pixels, and what counts as whole."""

import random
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest

from lib.errors import UserError
from lib.images import decode, image_size, list_images, natural_order, read_image

RASTER = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (40, 64, 3), dtype=np.uint8), (0, 0), 3)


def jpeg(image: np.ndarray = RASTER, *, orientation: int | None = None, order: str = "<") -> bytes:
    data = cv2.imencode(".jpg", image)[1].tobytes()
    if orientation is None:
        return data
    mark = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}IHHHIHHI", 8, 1, 0x112, 3, 1, orientation, 0, 0)
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(mark) + 8) + b"Exif\0\0" + mark + data[2:]


@pytest.mark.parametrize("names", [
    [f"{i}.jpg" for i in range(1, 13)],
    [f"{i:06d}.png" for i in range(12)],
    [f"frame_{i}.jpg" for i in range(1, 13)],
    [f"img ({i}).jpg" for i in range(1, 13)],
    [f"{760577.5 + 0.1 * i:.6f}.jpg" for i in range(24)],
    [f"clip_{i}_720p.jpg" for i in range(1, 13)],
    [f"{i}.mp4.jpg" for i in range(1, 13)],
    [f"walk.mp4_{i}.jpg" for i in range(1, 13)],
    [f"{i}_{random.Random(i).randbytes(4).hex()}.jpg" for i in range(1, 13)],
    [f"{random.Random(i).randbytes(4).hex()}-{i}.jpg" for i in range(1, 13)],
    [f"conf_{random.Random(i).randrange(100)}_{i}.jpg" for i in range(12)],
    [f"shot2.{i}.jpg" for i in range(1, 13)],
    [f"s{shot}_f{frame}.jpg" for shot in range(3) for frame in range(12)],
    [f"I{i}.jpg" for i in range(8, 12)],
    [f"フレーム{i}.jpg".translate({ord(digit): 0xFF10 + int(digit) for digit in "0123456789"}) for i in range(1, 13)],
    [chr(0x669) + ".jpg", chr(0x661) + chr(0x660) + ".jpg"],  # 9 and 10 in Arabic digits
    ["a.jpg", "b.jpg"],
    [],
])  # fmt: skip
def test_the_number_that_varies_orders_a_folder(names: list[str]) -> None:
    shuffled = random.Random(0).sample(names, len(names))
    assert natural_order(shuffled) == (names, "")


@pytest.mark.parametrize("names", [
    [f"{i}_{100 - i}.jpg" for i in range(12)],  # two counters
    ["1583.0.jpg", "1583.25.jpg", "1583.5.jpg", "1583.75.jpg", "1584.0.jpg"],  # a point or a separator
    ["3_900.jpg", "7_200.jpg", "8_500.jpg"],  # no counter at all
    ["img.jpg", *(f"img ({i}).jpg" for i in range(1, 13))],
])  # fmt: skip
def test_where_two_orders_are_possible_it_says_which_was_taken(names: list[str]) -> None:
    ordered, note = natural_order(names[::-1])
    assert ordered == names
    assert "two orders" in note
    assert names[1] in note


def test_a_folder_lists_its_pictures_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("10.jpg", "9.JPG", "8.png", "._8.png", ".hidden.jpg", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "11.jpeg").symlink_to(tmp_path / "10.jpg")
    assert [path.name for path in list_images(tmp_path)] == ["8.png", "9.JPG", "10.jpg", "11.jpeg"]
    with pytest.raises(UserError, match="nowhere"):
        list_images(tmp_path / "nowhere")
    for count, pair in enumerate(("3_900.jpg", "7_200.jpg")):
        (tmp_path / "two").mkdir(exist_ok=True)
        (tmp_path / "two" / pair).touch()
        list_images(tmp_path / "two")
        assert len(caplog.records) == count


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(10))
def test_the_orientation_mark_is_applied_as_opencv_does(orientation: int, order: str, tmp_path: Path) -> None:
    path = tmp_path / "turned.jpg"
    path.write_bytes(jpeg(orientation=orientation, order=order))
    expected = cv2.imread(str(path))
    assert np.array_equal(read_image(path), expected)
    assert expected.shape[:2] == ((64, 40) if 5 <= orientation <= 8 else (40, 64))
    assert image_size(path) == expected.shape[1::-1]
    half = cv2.imread(str(path), cv2.IMREAD_REDUCED_COLOR_2)
    assert np.array_equal(decode(path.read_bytes(), reduce=2), half)


def test_a_jpeg_is_whole_when_its_end_mark_follows_its_pixels(tmp_path: Path) -> None:
    data = jpeg()
    whole = decode(data)
    for behind in (b"\0" * 5000, b"\xff" * 9000, b"\0" * 2**20):
        assert np.array_equal(decode(data + behind), whole)
    thumbnail = b"\xff\xe1" + struct.pack(">H", len(data) + 2) + data  # an end mark in the header is not the end
    cut = data[:2] + thumbnail + data[2 : len(data) * 2 // 3]
    for broken in (data[: len(data) // 2], data[:-2], cut, cut + b"\0" * 5000):
        with pytest.raises(ValueError, match="cut short"):
            decode(broken)
        (tmp_path / "cut.jpg").write_bytes(broken)
        with pytest.raises(UserError, match=r"cut\.jpg: a JPEG that is cut short"):
            read_image(tmp_path / "cut.jpg")


def test_other_pictures_become_three_channels(tmp_path: Path) -> None:
    for name, image in {"gray.png": RASTER[..., 0], "deep.png": RASTER.astype(np.uint16) * 256, "a.bmp": RASTER,
                        "alpha.png": np.dstack([RASTER, RASTER[..., :1]]), "gray.jpg": RASTER[..., 0]}.items():
        path = tmp_path / name
        cv2.imwrite(str(path), image)
        assert np.array_equal(read_image(path), cv2.imread(str(path))), name
        assert image_size(path) == (64, 40)
