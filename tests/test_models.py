"""The base network: the reference's outputs and names, the grids, the correlation, the object-aware branch."""

import json
import math
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from model_recipe import crop, fill_model
from torch import Tensor

from lib.crops import grid_points
from lib.errors import UserError
from lib.models.connect import AdjustLayer, AlignHead, align_offsets, box_tower, xcorr_depthwise
from lib.models.dcn.deform_conv import DeformConv
from lib.models.models import Ocean, build_model
from lib.models.modules import Bottleneck
from lib.models.ocean import TemplateFeatures

REFERENCE = Path(__file__).resolve().parents[1].parent / "shared" / "reference"
SMALL = {"backbone": "ResNetSmall", "channels": 32, "towernum": 1}


@pytest.fixture(scope="module")
def full() -> Ocean:
    """The model of the paper with the branch, filled by the recipe."""
    model = build_model(align=True)
    fill_model(model)
    return model


@pytest.fixture(scope="module")
def small() -> Ocean:
    torch.manual_seed(0)
    return build_model(**SMALL, align=True).eval()


def relative_error(value: Tensor, wanted: np.ndarray) -> float:
    return float(np.abs(value.numpy() - wanted).max() / np.abs(wanted).max())


@torch.no_grad()
def test_reference_outputs(full: Ocean) -> None:
    path = REFERENCE / "golden_align_false.npz"
    if not path.is_file():
        pytest.skip("the reference's golden file is not here")
    golden = np.load(path)
    template = full.template(crop(127, seed=0))
    assert relative_error(template.zf, golden["zf"]) < 1e-4
    for size, suffix in ((255, ""), (271, "_271")):
        output = full.track(crop(size, seed=1), template)
        assert relative_error(output.cls, golden["cls" + suffix]) < 1e-4
        assert relative_error(output.ltrb, golden["ltrb" + suffix]) < 1e-4


@torch.no_grad()
def test_own_golden_numbers(full: Ocean) -> None:
    # Seven evenly spread values of each map, noted when the model agreed with the reference's golden file to 1e-5.
    wanted = {
        "zf": [-0.554759, 1.30555, 1.24112, -0.910336, 0.548749, -1.52447, 0.599128],
        "ltrb": [12.979, 17.3217, 33.0422, 33.8665, 10.0642, 59.3963, 36.8485],
        "cls": [-0.685199, -2.86771, -2.67611, -2.79562, -2.74664, -2.86673, -0.563245],
        "aligned": [-1.89657, -3.40616, -4.67431, -4.80049, -4.77808, -2.6721, -1.0317],
    }
    template = full.template(crop(127, seed=0))
    output = full.track(crop(255, seed=1), template)
    for name, tensor in zip(wanted, (template.zf, *output[:3]), strict=True):
        flat = tensor.flatten()
        sampled = flat[torch.linspace(0, len(flat) - 1, 7).long()]
        torch.testing.assert_close(sampled, torch.tensor(wanted[name]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("align", "count", "checksum"), [(False, 400, 1100969961), (True, 403, 2148096115)])
def test_state_dict_names_and_shapes(align: bool, count: int, checksum: int) -> None:
    with torch.device("meta"):
        shapes = {name: list(tensor.shape) for name, tensor in build_model(align=align).state_dict().items()}
    text = ";".join(f"{name} {tuple(shape)}" for name, shape in sorted(shapes.items()))
    assert (len(shapes), zlib.crc32(text.encode())) == (count, checksum)
    path = REFERENCE / f"ocean_state_dict_align_{str(align).lower()}.json"
    if path.is_file():
        assert shapes == json.loads(path.read_text())


@torch.no_grad()
@pytest.mark.parametrize("arguments", [SMALL, {}], ids=["small", "full"])
def test_feature_maps_have_the_grids_of_the_paper(arguments: dict) -> None:
    model = build_model(**arguments).eval()
    shallow, deep = model.features(torch.zeros(1, 3, 255, 255))
    assert [m.shape[-1] for m in (*shallow, deep)] == [125, 63, 31, 31]
    shallow, deep = model.features(torch.zeros(1, 3, 127, 127))
    assert [m.shape[-1] for m in (*shallow, deep)] == [61, 31, 15, 15]
    channels = model.spec["channels"]
    template = model.template(torch.zeros(2, 3, 127, 127))
    assert template.zf.shape == (2, channels, 7, 7)
    assert [tuple(z.shape[2:]) for z in template.cls] == [(5, 5), (3, 5), (5, 3)]


@torch.no_grad()
def test_middle_cell_sees_the_middle_pixel() -> None:
    """The receptive field of cell 15 of 31 is symmetric about pixel 127 of 255, that of 7 of 15 about 63 of 127."""
    trunk = build_model(**SMALL).features.eval()
    for size, cell in ((255, 15), (127, 7)):
        with torch.enable_grad():
            x = torch.randn(1, 3, size, size, requires_grad=True)
            trunk(x)[1][0, :, cell, cell].square().sum().backward()
        seen = x.grad.abs().sum((0, 1)).sum(0).nonzero().flatten()
        assert (seen.min() + seen.max()) / 2 == size // 2


@torch.no_grad()
@pytest.mark.parametrize(("size", "side"), [(255, 25), (271, 27), (287, 29)])
def test_score_map_follows_the_search_size(small: Ocean, size: int, side: int) -> None:
    template = small.template(crop(127, seed=0, batch=2))
    output = small.track(crop(size, seed=1, batch=2), template)
    assert output.ltrb.shape == (2, 4, side, side)
    assert output.cls.shape == output.cls_aligned.shape == (2, 1, side, side)
    assert (output.ltrb > 0).all()
    assert len(grid_points(size)) == side


@torch.no_grad()
def test_rows_of_a_batch_do_not_touch_each_other(small: Ocean) -> None:
    z, x = crop(127, seed=0, batch=3), crop(255, seed=1, batch=3)
    together = small(z, x)
    parts = [small.template(z[i:i + 1]) for i in range(3)]
    joined = TemplateFeatures.cat(parts)
    for tensors in (small.track(x, joined), small.track(x, joined.select([2, 1, 0]).select([2, 1, 0]))):
        for one, other in zip(together, tensors, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    alone = small.track(x[1:2], joined.select([1]))
    torch.testing.assert_close(alone.cls, together.cls[1:2], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_box_tower_in_two_halves_is_box_tower(small: Ocean) -> None:
    tower = small.connect_model
    assert isinstance(tower, box_tower)
    zf, xf = torch.randn(1, 32, 7, 7), torch.randn(1, 32, 31, 31)
    for one, other in zip(tower(xf, zf), tower.track(xf, *tower.template(zf)), strict=True):
        torch.testing.assert_close(one, other)


def test_calls_leave_the_model_as_it_was(small: Ocean) -> None:
    before = {name: value for name, value in vars(small).items() if not name.startswith("_")}
    small.track(crop(271, seed=1), small.template(crop(127, seed=0)))
    assert {name: value for name, value in vars(small).items() if not name.startswith("_")} == before


@pytest.mark.parametrize(("batch", "channels", "kernel"),
                         [(1, 5, (5, 5)), (3, 4, (3, 5)), (2, 2, (5, 3)), (1, 1, (1, 1))])
def test_correlation_and_its_gradient(batch: int, channels: int, kernel: tuple[int, int]) -> None:
    torch.manual_seed(0)
    x = torch.randn(batch, channels, 9, 8, dtype=torch.float64, requires_grad=True)
    z = torch.randn(batch, channels, *kernel, dtype=torch.float64, requires_grad=True)
    out = xcorr_depthwise(x, z)
    height, width = 9 - kernel[0] + 1, 8 - kernel[1] + 1
    wanted = torch.stack([(x[:, :, i:i + kernel[0], j:j + kernel[1]] * z).sum((2, 3))
                          for i in range(height) for j in range(width)], dim=2).view(batch, channels, height, width)
    torch.testing.assert_close(out, wanted)
    with torch.no_grad():
        torch.testing.assert_close(xcorr_depthwise(x, z), wanted)
    upstream = torch.randn_like(out)
    for own, theirs in zip(torch.autograd.grad(out, (x, z), upstream),
                           torch.autograd.grad(wanted, (x, z), upstream), strict=True):
        torch.testing.assert_close(own, theirs)


def test_correlation_of_a_template_that_is_not_trained() -> None:
    x, z = torch.randn(1, 2, 6, 6, requires_grad=True), torch.randn(1, 2, 3, 3)
    xcorr_depthwise(x, z).sum().backward()
    assert x.grad is not None
    assert z.grad is None


def test_neck_crops_templates_and_leaves_search_maps() -> None:
    neck = AdjustLayer(8, 4).eval()
    template, search = torch.randn(1, 8, 15, 15), torch.randn(1, 8, 31, 31)
    torch.testing.assert_close(neck(template, crop=True), neck(template)[:, :, 4:11, 4:11])
    assert neck(search, crop=True).shape == (1, 4, 31, 31)


def test_dilation_halves_in_the_block_with_the_downsample_branch() -> None:
    trunk = build_model().features.features
    assert trunk.layer3[0].conv2.dilation == (1, 1)
    assert {block.conv2.dilation for block in trunk.layer3[1:]} == {(2, 2)}
    assert trunk.layer2[0].downsample[0].kernel_size == (3, 3)
    assert trunk.layer2[0].downsample[0].padding == (0, 0)
    assert trunk.layer1[0].downsample[0].kernel_size == (1, 1)
    with pytest.raises(AssertionError):
        Bottleneck(8, 2, stride=2, dilation=2)


def offsets_by_hand(ltrb: np.ndarray, size: int) -> np.ndarray:
    """Return the offsets of OCEAN section 2, cell by cell, (18, S, S)."""
    side = ltrb.shape[-1]
    out = np.zeros((18, side, side))
    for row in range(side):
        for column in range(side):
            gx, gy = ((i - side // 2) * 8 + size // 2 for i in (column, row))
            left, top, right, bottom = ltrb[:, row, column]
            x1, y1, x2, y2 = gx - left, gy - top, gx + right, gy + bottom
            cx = ((x1 + x2) / 2 - size / 2) / 8 + side // 2 - column
            cy = ((y1 + y2) / 2 - size / 2) / 8 + side // 2 - row
            w, h = (x2 - x1 + 1) / 8, (y2 - y1 + 1) / 8
            for tap in range(9):
                dy, dx = tap // 3 - 1, tap % 3 - 1
                out[2 * tap, row, column] = cy + (h / 2 - 1) * dy
                out[2 * tap + 1, row, column] = cx + (w / 2 - 1) * dx
    return out


@pytest.mark.parametrize(("size", "side"), [(255, 25), (271, 27)])
def test_offsets_spread_the_kernel_over_the_box(size: int, side: int) -> None:
    ltrb = np.random.RandomState(0).uniform(1, 90, (2, 4, side, side))
    offsets = align_offsets(torch.from_numpy(ltrb), search_size=size)
    for row in range(2):
        np.testing.assert_allclose(offsets[row].numpy(), offsets_by_hand(ltrb[row], size), atol=1e-9)


def bilinear(feature: np.ndarray, y: float, x: float) -> np.ndarray:
    """Return the values (C,) of a map (C, S, S) between its cells, zero outside."""
    side, out = feature.shape[-1], np.zeros(len(feature))
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < side and 0 <= column < side:
                out += feature[:, row, column] * (1 - abs(y - row)) * (1 - abs(x - column))
    return out


@torch.no_grad()
@pytest.mark.parametrize(("size", "side"), [(255, 25), (287, 29)])
def test_the_aligned_score_is_that_of_nine_places_in_the_box(size: int, side: int) -> None:
    torch.manual_seed(0)
    head, rng = AlignHead(3, 5).double(), np.random.RandomState(1)
    feature, ltrb = rng.standard_normal((2, 3, side, side)), rng.uniform(1, 60, (2, 4, side, side))
    found = head(torch.from_numpy(feature), torch.from_numpy(ltrb), search_size=size)
    weight, last = head.rpn_conv.conv.weight.numpy(), head.rpn_cls
    for b, row, column in [(0, 0, 0), (0, 3, 17), (1, 12, 12), (1, 20, 2), (1, side - 1, side - 1)]:
        left, top, right, bottom = ltrb[b, :, row, column]
        points = [(i - side // 2) * 8 + size // 2 for i in (column, row)]
        middle_x, middle_y = points[0] + (right - left) / 2, points[1] + (bottom - top) / 2
        cell_x, cell_y = ((m - size / 2) / 8 + side // 2 for m in (middle_x, middle_y))
        half_w, half_h = (left + right + 1) / 8 / 2, (top + bottom + 1) / 8 / 2
        inner = sum(weight[:, :, dy + 1, dx + 1] @ bilinear(feature[b], cell_y + dy * half_h, cell_x + dx * half_w)
                    for dy in (-1, 0, 1) for dx in (-1, 0, 1))
        wanted = last.weight.numpy()[0, :, 0, 0] @ np.maximum(inner, 0) + last.bias.item()
        assert found[b, 0, row, column].item() == pytest.approx(wanted, abs=1e-9)


def test_deformable_convolution_samples_where_the_offsets_say() -> None:
    torch.manual_seed(0)
    conv = DeformConv(3, 4)
    x, offset = torch.randn(2, 3, 7, 7), 1.5 * torch.randn(2, 18, 7, 7)
    cells = torch.arange(7.0)
    columns = []
    for tap in range(9):
        y = cells[:, None] + tap // 3 - 1 + offset[:, 2 * tap]
        x_ = cells + tap % 3 - 1 + offset[:, 2 * tap + 1]
        grid = torch.stack([x_, y], dim=-1) / 3 - 1  # cells 0..6 to -1..1
        columns.append(F.grid_sample(x, grid, align_corners=True))
    wanted = torch.einsum("oct,bcthw->bohw", conv.weight.flatten(2), torch.stack(columns, dim=2))
    torch.testing.assert_close(conv(x, offset), wanted, rtol=1e-4, atol=1e-5)


def test_deformable_convolution_without_offsets_is_a_convolution() -> None:
    conv, x = DeformConv(3, 4), torch.randn(1, 3, 6, 6)
    torch.testing.assert_close(conv(x, torch.zeros(1, 18, 6, 6)), F.conv2d(x, conv.weight, padding=1))


def test_wild_boxes_do_no_harm() -> None:
    head = AlignHead(4, 4)
    ltrb = torch.full((1, 4, 25, 25), 20.0)
    wanted = head(torch.ones(1, 4, 25, 25), ltrb, search_size=255)
    wild = ltrb.clone()
    wild[0, :, 0, 0] = float("nan")
    wild[0, :, 0, 1] = float("inf")
    wild[0, :, 0, 2] = 1e30
    out = head(torch.ones(1, 4, 25, 25), wild, search_size=255)
    assert torch.isfinite(out).all()
    torch.testing.assert_close(out[..., 1:, :], wanted[..., 1:, :])


@pytest.mark.parametrize("align", [False, True])
def test_every_parameter_receives_a_gradient(align: bool) -> None:
    torch.manual_seed(0)
    model = build_model(**SMALL, align=align).train()
    output = model(crop(127, seed=0, batch=2), crop(255, seed=1, batch=2))
    loss = output.ltrb.log().mean() + output.cls.square().mean()
    if align:
        loss = loss + output.cls_aligned.square().mean()
    loss.backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


def test_spec_builds_the_same_model(small: Ocean) -> None:
    again = build_model(**small.spec)
    again.load_state_dict(small.state_dict())
    assert again.spec == small.spec
    assert json.loads(json.dumps(again.spec)) == again.spec


@pytest.mark.parametrize(("arguments", "message"), [
    ({"backbone": "ResNet5O"}, "ResNet50"),
    ({"arch": "ocean"}, "did you mean Ocean"),
    ({"backbone": "ResNetSmall", "backbone_options": {"widht": 8}}, "did you mean width"),
    ({"backbone": "ResNetSmall", "backbone_options": {"width": "8"}}, "not of type int"),
    ({"backbone": "ResNetSmall", "backbone_options": {"width": 0}}, "width"),
    ({"backbone": "ResNetSmall", "backbone_options": {"layers": [1, 2]}}, "layers"),
])
def test_wrong_names_and_options_are_told(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_model(**arguments)


def test_layers_of_the_trunk_are_named(small: Ocean) -> None:
    assert list(small.trunk_layers()) == ["conv1", "bn1", "layer1", "layer2", "layer3"]
    inside = {id(p) for module in small.trunk_layers().values() for p in module.parameters()}
    assert inside == {id(p) for name, p in small.named_parameters() if name.startswith("features.")}


def test_the_small_model_is_small(small: Ocean) -> None:
    assert 0.2e6 < sum(p.numel() for p in small.parameters()) < 0.3e6


def test_bf16_keeps_boxes_in_float32(small: Ocean) -> None:
    z, x = crop(127, seed=0), crop(255, seed=1)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        low = small(z, x)
    with torch.no_grad():
        high = small(z, x)
    assert {tensor.dtype for tensor in low[:3]} == {torch.float32}
    torch.testing.assert_close(low.ltrb, high.ltrb, rtol=0.05, atol=0.05)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        small(z, x).cls.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in small.parameters() if p.grad is not None)
    small.zero_grad()
