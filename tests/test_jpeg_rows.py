"""JpegRows cut out of a JPEG have the pixels that they have in the whole."""

import cv2
import numpy as np
import pytest

from lib.datasets import UnreadableCrop
from lib.datasets.prepare.work import encode
from lib.datasets.stores import decode_crop
from lib.images import JpegRows, cut_rows, decode


def picture(height: int = 511, width: int = 511) -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 3)


@pytest.mark.parametrize("quality", [30, 95])
def test_the_rows_are_those_of_the_whole(quality):
    data = encode(picture(), quality=quality)
    whole = decode(data)
    assert whole.shape == (511, 511, 3)
    for top, bottom in ((184, 326), (0, 100), (300, 510), (100, 400), (0, 510), (17, 17), (496, 510), (-20, 3)):
        rows = cut_rows(data, top, bottom)
        part = decode(rows.data)
        assert rows.above + len(part) + rows.below == 511
        low, high = max(top, 0), bottom + 1
        assert rows.above <= low
        assert rows.above + len(part) >= high
        assert np.array_equal(part[low - rows.above : high - rows.above], whole[low:high])
        assert len(part) <= high - low + 2 * 2 + 2 * 16, "no more than the margin and whole blocks"


@pytest.mark.parametrize(("options", "size"), [
    ([], 511), ([cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_RST_INTERVAL, 32], 511),
    ([cv2.IMWRITE_JPEG_RST_INTERVAL, 7], 511), ([cv2.IMWRITE_JPEG_RST_INTERVAL, 32], 16),
])
def test_other_jpegs_stay_whole(options, size):
    data = cv2.imencode(".jpg", picture(size, 511), options)[1].tobytes()
    assert cut_rows(data, 3, 12) == JpegRows(data)


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"\xff\xd8\xff\xe0", b"GIF89a and so on", bytes(1000)])
def test_what_is_no_jpeg_stays_as_it_is(data):
    assert cut_rows(data, 3, 12) == JpegRows(data)


def test_a_gray_jpeg_has_blocks_of_8():
    data = cv2.imencode(".jpg", picture()[:, :, 0], [cv2.IMWRITE_JPEG_RST_INTERVAL, 64])[1].tobytes()
    rows = cut_rows(data, 100, 110)
    assert rows.above == 96
    assert np.array_equal(decode(rows.data), decode(data)[96:120])


def test_a_crop_of_which_rows_are_read_is_the_same_crop():
    data = encode(picture(), quality=95)
    size = np.array([30.0, 50.0])
    whole = decode_crop(data, size, place="x")
    part = decode_crop(data, size, place="x", view_xyxy=np.array([100.0, 200.0, 300.0, 333.3]))
    assert np.array_equal(part.box_xyxy, whole.box_xyxy)
    assert part.to_image is not None
    first = -int(part.to_image[1, 2])
    assert np.array_equal(part.image[200 - first : 335 - first], whole.image[200:335])
    assert len(part.image) < 200


def test_the_size_is_checked_of_the_whole_crop():
    data = encode(picture(500), quality=95)
    with pytest.raises(UnreadableCrop, match="x: 511 x 500 px"):
        decode_crop(data, np.array([30.0, 50.0]), place="x", view_xyxy=np.array([100.0, 200.0, 300.0, 333.3]))


def test_damage_anywhere_in_the_rows_is_found_or_harmless():
    data = encode(picture(), quality=95)
    rng = np.random.default_rng(1)
    for _ in range(200):
        broken = bytearray(data)
        broken[int(rng.integers(2, len(data) - 2))] ^= 1 << int(rng.integers(8))
        view = np.array([0.0, 180, 99, 330])
        try:
            crop = decode_crop(bytes(broken), np.array([30.0, 50.0]), place="x", view_xyxy=view)
        except UnreadableCrop:
            continue
        assert crop.image.shape[1:] == (511, 3)
