"""Augmentation: the view's geometry, and that the box goes wherever the pixels go."""

import cv2
import numpy as np
import pytest

from lib.config import DatasetConfig
from lib.crops import CROP_SIZE, box_in_crop511, crop511, crop_square, mean_colour, view_matrix
from lib.datasets import Crop, FramePair
from lib.datasets.augment import (
    CropAugmentation,
    Rendered,
    augmentation_matrix,
    colour_matrix,
    draw_augmentation,
    draw_part,
    render as render_read,
    shown_part,
    warp,
)

SIZE_WH = (60.0, 40.0)
WARP_AFFINE = cv2.warpAffine


def render(crop: Crop, look: CropAugmentation, *, out_size: int) -> Rendered:
    return render_read(lambda _view=None: crop, look, out_size=out_size)


def marked_crop(box: np.ndarray) -> Crop:
    """Return a dark crop in which the box, and it alone, is white; its sides are the centres of its outermost px."""
    image = np.full((CROP_SIZE, CROP_SIZE, 3), 20, np.uint8)
    x1, y1, x2, y2 = np.round(box).astype(int)
    image[y1 : y2 + 1, x1 : x2 + 1] = 255
    return Crop(image, np.array([x1, y1, x2, y2], float))


def bright_box(pixels: np.ndarray) -> np.ndarray:
    """Return the hull (x1, y1, x2, y2) of the bright pixels of a (3, H, W) picture."""
    rows, columns = np.nonzero(pixels[1] > 128)
    return np.array([columns.min(), rows.min(), columns.max(), rows.max()], float)


def looks(count: int, **switches: float):
    keys = {"shift_search": "SHIFTs", "scale_search": "SCALEs"}
    settings = DatasetConfig(**{keys.get(name, name.upper()): float(value) for name, value in switches.items()})
    rng = np.random.default_rng(0)
    return [draw_augmentation(settings, rng, search_size=255) for _ in range(count)]


def test_without_shift_and_scale_the_template_shows_the_context_square():
    look = looks(1, shift=0, scale=0, shift_search=0, scale_search=0)[0]
    assert look.template.view_xyxy.tolist() == [191.5, 191.5, 318.5, 318.5]
    assert look.search.view_xyxy.tolist() == [127.5, 127.5, 382.5, 382.5]
    assert look.search.shift_xy == (0, 0)
    crop = Crop(np.zeros((511, 511, 3), np.uint8), box_in_crop511(SIZE_WH))
    box = render(crop, look.search, out_size=255).box_xyxy
    assert (box[:2] + box[2:]) / 2 == pytest.approx([127, 127]), "the centre of the crop is the centre of the grid"


def test_the_views_keep_to_their_ranges_and_fill_them():
    drawn = looks(2000)
    for which, size, scale, shift in (("template", 127, 0.05, 4), ("search", 255, 0.18, 64)):
        views = np.array([getattr(look, which).view_xyxy for look in drawn])
        sides = (views[:, 2:] - views[:, :2]) / size
        centres = (views[:, 2:] + views[:, :2]) / 2 - 255
        for values, low, high in ((sides, 1 - scale, 1 + scale), (centres, -shift, shift)):
            assert values.min() >= low - 1e-9
            assert values.max() <= high + 1e-9
            assert values.min() < low + 0.02 * (high - low)
            assert values.max() > high - 0.02 * (high - low)
            assert values.mean() == pytest.approx((low + high) / 2, abs=0.03 * (high - low))
        assert np.corrcoef(sides.T)[0, 1] == pytest.approx(0, abs=0.08), "each axis has its own scale"
        shifts = np.array([getattr(look, which).shift_xy for look in drawn])
        assert np.allclose(shifts, centres)


def test_a_view_never_leaves_the_crop():
    for look in looks(500, shift_search=400, scale_search=0.99):
        view = look.search.view_xyxy
        assert view.min() >= -1e-9
        assert view.max() <= CROP_SIZE - 1 + 1e-9


@pytest.mark.parametrize("switch", ["color", "flip", "rotation", "gray", "blur", "cutout"])
def test_each_switch_is_a_probability_per_sample(switch):
    marks = {"color": lambda k: k.jitter is not None, "flip": lambda k: k.flip, "rotation": lambda k: k.angle != 0,
             "gray": lambda k: k.gray, "blur": lambda k: k.blur, "cutout": lambda k: k.cutout is not None}
    off = dict.fromkeys(marks, 0.0)
    for chance in (0.0, 0.3, 1.0):
        drawn = looks(1000, **{**off, switch: chance})
        assert np.mean([marks[switch](pair.search) for pair in drawn]) == pytest.approx(chance, abs=0.05)
        assert all(marks[switch](pair.search) == marks[switch](pair.template) for pair in drawn)
        for other in set(marks) - {switch}:
            assert not any(marks[other](pair.search) for pair in drawn)


def test_a_switch_does_not_move_what_others_draw():
    plain, flipped = looks(20, flip=0.0), looks(20, flip=1.0)
    assert all(np.array_equal(a.search.view_xyxy, b.search.view_xyxy) for a, b in zip(plain, flipped, strict=True))


@pytest.mark.parametrize("switches", [{}, {"flip": 1}, {"blur": 1}, {"color": 1}, {"gray": 1, "color": 1}])
def test_the_box_is_where_the_pixels_are(switches):
    crop = marked_crop(box_in_crop511(SIZE_WH))
    for pair in looks(30, **{"color": 0, **switches}):
        for look, size in ((pair.template, 127), (pair.search, 255)):
            pixels, box = render(crop, look, out_size=size)
            assert pixels.shape == (3, size, size)
            assert np.abs(bright_box(pixels) - np.clip(box, 0, size)).max() <= 1.5


def test_under_rotation_the_box_is_the_hull_of_its_corners():
    crop = marked_crop(box_in_crop511(SIZE_WH))
    angles = []
    for pair in looks(30, color=0, rotation=1, flip=0.5):
        pixels, box = render(crop, pair.search, out_size=255)
        assert np.abs(bright_box(pixels) - np.clip(box, 0, 255)).max() <= 2
        angles.append(pair.search.angle)
    assert -10 <= min(angles) < -7
    assert 7 < max(angles) <= 10


def test_a_flip_is_the_mirror_image_exactly():
    rng = np.random.default_rng(1)
    crop = Crop(rng.integers(0, 256, (511, 511, 3), dtype=np.uint8), box_in_crop511(SIZE_WH))
    look = CropAugmentation(np.array([130.0, 131.0, 384.0, 385.0]), (2.0, 3.0))  # 254 px: no interpolation
    plain, flipped = render(crop, look, out_size=255), render(crop, look._replace(flip=True), out_size=255)
    assert np.array_equal(plain.pixels, crop.image[131:386, 130:385].transpose(2, 0, 1))
    assert np.array_equal(flipped.pixels, plain.pixels[:, :, ::-1])
    x1, y1, x2, y2 = plain.box_xyxy
    assert flipped.box_xyxy == pytest.approx([254 - x2, y1, 254 - x1, y2])


def test_a_view_of_the_picture_itself_is_the_view_of_its_crop():
    rng = np.random.default_rng(2)
    picture = cv2.GaussianBlur(rng.integers(0, 256, (300, 400, 3), dtype=np.uint8), (0, 0), 4)
    box = np.array([150.0, 100.0, 230.0, 170.0])
    size = box[2:] - box[:2]
    crop = Crop(crop511(picture, box, fill=mean_colour(picture)), box_in_crop511(size))
    to_image = cv2.invertAffineTransform(view_matrix(crop_square(box), out_size=CROP_SIZE))
    whole = Crop(picture, box_in_crop511(size), to_image, tuple(cv2.mean(picture)[:3]))
    for pair in looks(10, color=0):
        a, b = render(crop, pair.search, out_size=255), render(whole, pair.search, out_size=255)
        assert np.array_equal(a.box_xyxy, b.box_xyxy)
        difference = np.abs(a.pixels.astype(int) - b.pixels)
        assert difference.mean() < 1.0
        assert np.percentile(difference, 99) <= 6


@pytest.mark.parametrize("whole", [False, True])
def test_a_part_is_shown_as_an_object_of_its_own(whole):
    rng = np.random.default_rng(3)
    picture = cv2.GaussianBlur(rng.integers(0, 256, (300, 400, 3), dtype=np.uint8), (0, 0), 6)
    box = np.array([150.0, 100.0, 230.0, 180.0])
    size = box[2:] - box[:2]
    to_crop = view_matrix(crop_square(box), out_size=CROP_SIZE)
    crop = Crop(crop511(picture, box, fill=mean_colour(picture)), box_in_crop511(size))
    if whole:
        crop = Crop(picture, box_in_crop511(size), cv2.invertAffineTransform(to_crop), tuple(cv2.mean(picture)[:3]))
    for look in looks(8, color=0):
        pair = draw_part(DatasetConfig(PARTS=1.0), FramePair(lambda _view=None: crop, None), rng)
        part = pair.search()
        middle = np.array([CROP_SIZE // 2] * 2)
        assert part.box_xyxy.reshape(2, 2).mean(0) == pytest.approx(middle)
        corners = cv2.transform(part.box_xyxy.reshape(1, 2, 2), part.to_image)[0]  # where it is in the image held
        if not whole:
            corners = cv2.transform(corners[None], cv2.invertAffineTransform(to_crop))[0]
        assert (corners[0] >= box[:2] - 1e-6).all()
        assert (corners[1] <= box[2:] + 1e-6).all()
        shares = (corners[1] - corners[0]) / size
        assert ((shares > 0.4) & (shares < 0.9)).all()
        alone = Crop(crop511(picture, corners.ravel(), fill=mean_colour(picture)), part.box_xyxy)
        shown, expected = (render(each, look.template, out_size=127) for each in (part, alone))
        assert np.array_equal(shown.box_xyxy, expected.box_xyxy)
        assert np.abs(shown.pixels.astype(int) - expected.pixels).mean() < 2.0
        assert np.array_equal(pair.template().box_xyxy, part.box_xyxy), "both show the same part of one picture"


def test_parts_are_a_share_of_the_pairs():
    pair, rng = FramePair(None, None), np.random.default_rng(4)
    parts = [draw_part(DatasetConfig(PARTS=0.3), pair, rng) is not pair for _ in range(400)]
    assert np.mean(parts) == pytest.approx(0.3, abs=0.07)
    state = rng.bit_generator.state
    assert draw_part(DatasetConfig(), pair, rng) is pair
    assert rng.bit_generator.state == state, "a share of 0 leaves the numbers of all other draws"


def test_colours_by_hand():
    view = np.array([0.0, 0, 10, 10])
    pixel = np.array([40.0, 120.0, 200.0, 1.0])

    def shown(**change):
        return colour_matrix(CropAugmentation(view, (0, 0), **change), mean_bgr=(100, 100, 100)) @ pixel

    assert shown() == pytest.approx([40, 120, 200])
    assert shown(jitter=(1.05, 1, 1, 0)) == pytest.approx([42, 126, 210])
    assert shown(jitter=(1, 0.95, 1, 0)) == pytest.approx([43, 119, 195])  # towards the mean gray 100
    gray = 0.114 * 40 + 0.587 * 120 + 0.299 * 200
    assert shown(gray=True) == pytest.approx([gray] * 3)
    assert shown(jitter=(1, 1, 0.95, 0)) == pytest.approx(0.95 * pixel[:3] + 0.05 * gray)
    turned = shown(jitter=(1, 1, 1, 0.05))
    assert np.dot([0.114, 0.587, 0.299], turned) == pytest.approx(gray), "hue keeps the brightness"
    assert np.abs(turned - pixel[:3]).max() > 5
    assert colour_matrix(CropAugmentation(view, (0, 0), jitter=(1, 1, 1, 0.05)), mean_bgr=(0, 0, 0)) @ [9, 9, 9, 1] == \
        pytest.approx([9, 9, 9], abs=1e-9), "hue leaves gray alone"


def test_the_jitter_stays_small_and_differs_between_the_two_crops():
    drawn = looks(500)
    values = np.array([pair.search.jitter for pair in drawn])
    assert np.abs(values[:, :3] - 1).max() <= 0.05
    assert np.abs(values[:, 3]).max() <= 0.05
    assert np.abs(values[:, 3]).max() > 0.045
    assert all(pair.search.jitter != pair.template.jitter for pair in drawn)
    strong = np.array([pair.search.jitter for pair in looks(500, jitter=0.3)])
    assert 0.27 < np.abs(strong[:, :3] - 1).max() <= 0.3
    assert np.array_equal(strong[:, 3], values[:, 3]), "the hue is left as it is"


def test_a_cutout_hides_one_square():
    crop = marked_crop(np.array([0.0, 0, 511, 511]))
    crop.image[:] = 200
    crop.image[:5] = 0  # so that the mean is another colour than the rest
    look = looks(1, color=0, cutout=1, shift_search=0, scale_search=0)[0].search
    hidden = render(crop, look._replace(view_xyxy=np.array([0.0, 0, 510, 510])), out_size=255).pixels[0]
    values, counts = np.unique(hidden[10:], return_counts=True)
    assert 16 * 10 <= counts[values != 200].sum() <= 16 * 16
    corner = look._replace(cutout=(1.0, 1.0), view_xyxy=np.array([0.0, 0, 510, 510]))
    assert (render(crop, corner, out_size=255).pixels[0, -16:, -16:] != 200).all()


def test_rotation_turns_counter_clockwise_about_the_middle():
    look = CropAugmentation(np.array([0.0, 0, 254, 254]), (0, 0), angle=10.0)
    matrix = augmentation_matrix(look, out_size=255)
    assert matrix @ [127, 127, 1] == pytest.approx([127, 127])
    x, y = matrix @ [227, 127, 1]
    assert x < 227
    assert y < 127, "what lies to the right goes up"


@pytest.mark.parametrize("flip", [0, 1])
def test_the_fast_way_shows_what_warp_affine_shows(flip, monkeypatch):
    rng = np.random.default_rng(3)
    picture = cv2.GaussianBlur(rng.integers(0, 256, (511, 511, 3), dtype=np.uint8), (0, 0), 2)
    crop = Crop(picture, box_in_crop511(SIZE_WH))
    slow = 0
    monkeypatch.setattr("lib.datasets.augment.cv2.warpAffine", None)
    for pair in looks(60, flip=flip):
        for look, size in ((pair.template, 127), (pair.search, 255)):
            matrix = augmentation_matrix(look, out_size=size)
            try:
                fast = warp(crop, matrix, out_size=size)
            except TypeError:  # warpAffine was called
                slow += 1
                continue
            expected = WARP_AFFINE(picture, matrix, (size, size), borderMode=cv2.BORDER_REPLICATE)
            difference = np.abs(fast.astype(int) - expected)
            assert difference.max() <= 2, "1/32 px, OpenCV 4's precision of warpAffine, of 20 a px"
            assert difference.mean() < 0.6
    assert slow <= 6, "nearly all views take the fast way"


def test_the_part_that_is_looked_at_holds_every_px_of_the_view():
    for pair in looks(30, rotation=1, flip=0.5):
        look = pair.search
        matrix = augmentation_matrix(look, out_size=255)
        x1, y1, x2, y2 = shown_part(matrix, out_size=255)
        back = cv2.invertAffineTransform(matrix)
        for corner in ((0, 0), (254, 0), (0, 254), (254, 254)):
            x, y = back @ [*corner, 1]
            assert x1 - 1e-6 <= x <= x2 + 1e-6
            assert y1 - 1e-6 <= y <= y2 + 1e-6
