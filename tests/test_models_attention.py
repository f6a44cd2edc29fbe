"""The Botnet and transformer backbones: the formula, the grids, torchvision's layers, who attends to whom."""

import inspect
import math
from pathlib import Path

import pytest
import torch
import torchvision
from model_recipe import crop
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from train_helpers import tiny_yaml

from lib import commands
from lib.checkpoint import import_pretrained, load_model
from lib.errors import UserError
from lib.models.backbones import BACKBONES
from lib.models.models import BoTNet50, Ocean, build_model
from lib.models.modules import MHSA, Bottleneck_MHSA, resize_table
from lib.models.ocean import TemplateFeatures
from lib.models.pretrained import IMAGENET

TINY_VIT = {"dim": 16, "depth": 3, "heads": 2}
VARIANTS = {
    "single": ("ResNetSmall_single", {}),
    "mhsa": ("ResNetSmall_MHSA", {}),
    "mhsa heads": ("ResNetSmall_MHSA", {"heads": 4}),
    "mhsa two modules": ("ResNetSmall_MHSA", {"separate_template": True}),
    "mhsa templ": ("ResNetSmall_MHSA", {"templ": True}),
    "mhsa templ two modules": ("ResNetSmall_MHSA", {"templ": True, "separate_template": True}),
    "vit": ("ViT_small", TINY_VIT),
    "vit joint": ("ViT_small", {**TINY_VIT, "joint": True}),
}
MIXED = {"mhsa templ", "mhsa templ two modules", "vit joint"}


def variant(name: str, *, align: bool = False) -> Ocean:
    torch.manual_seed(0)
    backbone, options = VARIANTS[name]
    return build_model(backbone=backbone, backbone_options=options, channels=16, towernum=1, align=align)


def by_the_formula(layer: MHSA, x: Tensor, templ: Tensor | None, rows: Tensor) -> Tensor:
    """Return energy[i, j] = q_i . k_j + r_i . q_j, softmax over j, out_i = sum_j attn v_j, spelt out; rows (C, N)."""
    maps = [x] if templ is None else [x, templ]
    out = torch.zeros_like(x)
    depth = x.shape[1] // layer.heads
    for b in range(x.shape[0]):
        q, k, v = (torch.cat([part(m[b:b + 1])[0].flatten(1) for m in maps], dim=1)
                   for part in (layer.query, layer.key, layer.value))
        tokens = x[0, 0].numel()
        for head in range(layer.heads):
            of = slice(head * depth, (head + 1) * depth)
            energy = q[of, :tokens].T @ k[of] + rows[of].T @ q[of]
            mixed = torch.softmax(energy, dim=1) @ v[of].T
            out[b, of] = mixed.T.reshape(depth, *x.shape[2:])
    return out


@torch.no_grad()
@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("with_templ", [False, True])
def test_attention_equals_the_explicit_formula(heads: int, with_templ: bool) -> None:
    torch.manual_seed(0)
    layer = MHSA(8, width=5, height=6, heads=heads)
    layer.rel_h.mul_(4)
    x, templ = torch.randn(2, 8, 5, 6), torch.randn(2, 8, 3, 3) if with_templ else None
    rows = (layer.rel_h + layer.rel_w)[0].flatten(1)
    torch.testing.assert_close(layer(x, templ), by_the_formula(layer, x, templ, rows), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_attention_has_the_shapes_of_the_notes() -> None:
    layer = MHSA(512, width=14, height=14)
    assert layer.rel_h.shape == (1, 512, 1, 14)
    assert layer.rel_w.shape == (1, 512, 14, 1)
    x = torch.randn(2, 512, 14, 14)
    query, keys, values = layer._tokens(x)
    assert query.shape == values.shape == (2, 1, 196, 512)
    assert keys.shape == (2, 1, 196, 1024)
    assert layer(x).shape == (2, 512, 14, 14)


@torch.no_grad()
def test_attention_interpolates_its_positions() -> None:
    layer = MHSA(4, width=3, height=3)
    x = torch.randn(1, 4, 5, 7)
    rel_h = torch.nn.functional.interpolate(layer.rel_h, size=(1, 7), mode="bilinear", align_corners=True)
    rel_w = torch.nn.functional.interpolate(layer.rel_w, size=(5, 1), mode="bilinear", align_corners=True)
    rows = (rel_h + rel_w)[0].flatten(1)
    torch.testing.assert_close(layer(x), by_the_formula(layer, x, None, rows), rtol=1e-5, atol=1e-5)


def test_resized_tables_keep_their_ends() -> None:
    table = torch.tensor([0.0, 2.0, 6.0], requires_grad=True)
    torch.testing.assert_close(resize_table(table, 5, dim=0), torch.tensor([0.0, 1.0, 2.0, 4.0, 6.0]))
    torch.testing.assert_close(resize_table(table, 2, dim=0), torch.tensor([0.0, 6.0]))
    assert resize_table(table, 3, dim=0) is table
    resize_table(table, 7, dim=0).sum().backward()
    assert (table.grad > 0).all()


@pytest.mark.parametrize("heads", [0, 3])
def test_heads_must_divide_the_channels(heads: int) -> None:
    with pytest.raises(UserError, match="heads do not divide"):
        build_model(backbone="ResNetSmall_MHSA", backbone_options={"heads": heads})


def test_strided_attention_block_halves_the_map() -> None:
    block = Bottleneck_MHSA(16, 4, side=6, stride=2, downsample=nn.Conv2d(16, 16, 1, stride=2))
    assert block(torch.randn(2, 16, 6, 6)).shape == (2, 16, 3, 3)


def test_botnet_has_the_parameters_of_the_paper() -> None:
    with torch.device("meta"):
        network, resnet = BoTNet50(), torchvision.models.resnet50()
        count, base = (sum(p.numel() for p in m.parameters()) for m in (network, resnet))
    # Three 3x3 convolutions make way for query, key and value with bias, and for one table row per axis cell.
    assert count == base - 3 * 9 * 512**2 + 3 * 3 * (512**2 + 512) + 512 * (2 * 14 + 2 * 7 + 2 * 7)
    assert count == pytest.approx(20.8e6, rel=0.005)  # 20.8 M in the paper's table, with relative positions


@torch.no_grad()
def test_botnet_is_resnet50_up_to_its_attention() -> None:
    torch.manual_seed(0)
    network, resnet = BoTNet50(num_classes=7, size=64).eval(), torchvision.models.resnet50(weights=None).eval()
    shared = {k: v for k, v in resnet.state_dict().items() if not k.startswith(("layer4", "fc"))}
    missing, unexpected = network.load_state_dict(shared, strict=False)
    assert unexpected == []
    assert all(name.startswith(("layer4.", "fc.")) for name in missing)
    x = torch.randn(1, 3, 64, 64)
    stem = [network.conv1, network.bn1, network.relu, network.maxpool, network.layer1, network.layer2, network.layer3]
    theirs = [resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool, resnet.layer1, resnet.layer2, resnet.layer3]
    torch.testing.assert_close(nn.Sequential(*stem)(x), nn.Sequential(*theirs)(x))
    assert network(x).shape == (1, 7)


@torch.no_grad()
@pytest.mark.parametrize(("size", "side"), [(127, 15), (255, 31), (271, 33), (287, 35)])
def test_transformer_keeps_the_grids(size: int, side: int) -> None:
    trunk = variant("vit").features
    _, deep = trunk(crop(size, seed=0))
    assert deep.shape == (1, 16, side, side)


@torch.no_grad()
@pytest.mark.parametrize("old_names", [False, True])
def test_transformer_computes_torchvisions_layers(old_names: bool) -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.VisionTransformer(image_size=224, patch_size=16, num_layers=3, num_heads=2,
                                                  hidden_dim=16, mlp_dim=64).eval()
    nn.init.normal_(theirs.encoder.pos_embedding)
    weights = theirs.state_dict()
    if old_names:  # as in the files that torchvision's site has
        weights = {name.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."): tensor
                   for name, tensor in weights.items()}
    model = variant("vit").eval()
    report = import_pretrained(model, weights, source="vit.pth")
    assert report.loaded == len(model.features.state_dict())
    assert set(report.skipped) == {"features.class_token", "features.heads.head.weight", "features.heads.head.bias"}

    ours, bgr = model.features, torch.randint(0, 256, (1, 3, 255, 255)).float()
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (IMAGENET.mean, IMAGENET.std))
    padded = nn.functional.pad((bgr.flip(1) - mean) / std, (0, 1, 0, 1), mode="replicate")
    embedded = ours.embed(bgr)
    patches = embedded - ours.positions.of_side(31)
    torch.testing.assert_close(patches[..., ::2, ::2], theirs.conv_proj(padded), rtol=1e-4, atol=1e-4)
    tokens = embedded.flatten(2).transpose(1, 2)
    wanted = theirs.encoder.ln(theirs.encoder.layers(tokens)).transpose(1, 2).reshape(1, 16, 31, 31)
    torch.testing.assert_close(ours(bgr)[1], wanted, rtol=1e-4, atol=1e-4)
    # The middle of the 14 x 14 table lies between its cells; that of 31 x 31 is a cell.
    middle = theirs.encoder.pos_embedding[0, 1:].reshape(14, 14, 16)[6:8, 6:8].mean((0, 1))
    assert torch.corrcoef(torch.stack([ours.positions.table[0, :, 15, 15], middle]))[0, 1] > 0.9


def test_transformer_weights_fill_a_joint_trunk_whose_kinds_stay_new() -> None:
    theirs = torchvision.models.VisionTransformer(image_size=224, patch_size=16, num_layers=3, num_heads=2,
                                                  hidden_dim=16, mlp_dim=64)
    report = import_pretrained(variant("vit joint"), theirs.state_dict(), source="vit.pth")
    assert set(report.missing) == {"features.kinds.template", "features.kinds.search"}
    with pytest.raises(UserError, match="another architecture"):
        import_pretrained(variant("single"), theirs.state_dict(), source="vit.pth")


def test_vit_b16_takes_torchvisions_weights() -> None:
    with torch.device("meta"):
        model, theirs = build_model(backbone="ViT", channels=8, towernum=1), torchvision.models.vit_b_16()
    own = {name.removeprefix("features."): tuple(t.shape) for name, t in model.state_dict().items()
           if name.startswith("features.blocks.")}
    blocks = {name.removeprefix("encoder.").replace("layers.encoder_layer_", "blocks."): tuple(t.shape)
              for name, t in theirs.state_dict().items() if "encoder_layer" in name}
    assert own == blocks


def deep_search_map(model: Ocean, x: Tensor, template: TemplateFeatures) -> Tensor:
    """Return what the neck sees of the search."""
    seen = []
    hook = model.neck.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model.track(x, template)
    hook.remove()
    return seen[-1]


@torch.no_grad()
@pytest.mark.parametrize("name", VARIANTS)
def test_who_attends_to_whom(name: str) -> None:
    model = variant(name).eval()
    x = crop(255, seed=1)
    first, second = (model.template(crop(127, seed=seed)) for seed in (2, 3))
    assert (first.raw is not None) == (name in MIXED)
    assert (first.zf is None) == (name == "vit joint")
    differ = not torch.allclose(deep_search_map(model, x, first), deep_search_map(model, x, second), atol=1e-6)
    assert differ == (name in MIXED)


@torch.no_grad()
def test_joint_template_features_depend_on_the_search() -> None:
    model = variant("vit joint").eval()
    raw = model.template(crop(127, seed=2)).raw
    assert raw.shape == (1, 16, 15, 15)
    one, other = (model.features.encode_jointly(raw, crop(255, seed=seed))[0] for seed in (1, 4))
    assert not torch.allclose(one, other, atol=1e-6)


@torch.no_grad()
def test_a_separate_module_serves_the_template_alone() -> None:
    model = variant("mhsa two modules").eval()
    z, x = crop(127, seed=0), crop(255, seed=1)
    template = model.template(z)
    before = model.track(x, template)
    for parameter in model.features_mhsa_z.parameters():
        parameter.mul_(1.5)
    assert torch.equal(model.track(x, template).cls, before.cls)
    assert not torch.allclose(model.template(z).zf, template.zf)
    assert model.features_mhsa_z.features.layer.conv2.rel_h.shape[-1] == 15
    assert model.features_mhsa.features.layer.conv2.rel_h.shape[-1] == 31


@torch.no_grad()
@pytest.mark.parametrize("name", VARIANTS)
def test_sizes_batches_and_rows(name: str) -> None:
    model = variant(name, align=True).eval()
    z, x = crop(127, seed=0, batch=2), crop(271, seed=1, batch=2)
    together = model(z, x)
    assert together.cls.shape == together.cls_aligned.shape == (2, 1, 27, 27)
    parts = TemplateFeatures.cat([model.template(z[i:i + 1]) for i in range(2)])
    swapped = model.track(x.flip(0), parts.select([1, 0]))
    torch.testing.assert_close(swapped.cls.flip(0), together.cls, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("name", VARIANTS)
def test_every_parameter_receives_a_gradient(name: str, align: bool) -> None:
    model = variant(name, align=align).train()
    output = model(crop(127, seed=0, batch=2), crop(255, seed=1, batch=2))
    loss = output.ltrb.log().square().mean() + output.cls.square().mean()
    if align:
        loss = loss + output.cls_aligned.square().mean()
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    assert [name for name, grad in gradients.items() if grad is None] == []
    # A softmax cannot see a key's bias: it adds the same to every energy of a row.
    zero = [name for name, grad in gradients.items() if not grad.abs().sum() > 0 and not name.endswith("key.bias")]
    assert zero == []


@pytest.mark.parametrize("name", VARIANTS)
def test_what_is_trunk_and_what_is_new(name: str) -> None:
    model = variant(name)
    layers = model.trunk_layers()
    assert {"conv1", "layer1", "layer2", "layer3"} <= set(layers)
    inside = [id(p) for module in layers.values() for p in module.parameters()]
    assert len(inside) == len(set(inside))
    new = {n for n, p in model.named_parameters() if id(p) not in set(inside)}
    parts = {n for n in ("features_mhsa", "features_mhsa_z") if getattr(model, n) is not None}
    kinds = {"features.kinds.template", "features.kinds.search"} if name == "vit joint" else set()
    assert {n.split(".")[0] for n in new - kinds} == {"neck", "connect_model"} | parts
    assert kinds <= new


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_builds_by_its_name(name: str) -> None:
    with torch.device("meta"):
        model = build_model(backbone=name)
    assert model.spec["backbone"] == name
    assert model.neck.downsample[0].in_channels == model.features.out_channels
    assert BACKBONES[name].__doc__
    page = (Path(__file__).resolve().parents[1] / "docs" / "MODELS.md").read_text(encoding="utf-8")
    words = [f"`{name}`", *(f"{option}: " for option in inspect.signature(BACKBONES[name]).parameters)]
    assert [word for word in words if word not in page] == []


def test_untrained_attention_is_not_saturated() -> None:
    """With a table as large as its sum allows, the softmax begins spread out, not on one cell."""
    torch.manual_seed(0)
    layer = MHSA(256, width=31, height=31)
    x = torch.relu(torch.randn(1, 256, 31, 31))
    query, keys, _ = layer._tokens(x)
    rows = layer._split(layer._positions(31, 31))
    energy = torch.cat([query, rows], dim=-1) @ keys.transpose(2, 3)
    attention = torch.softmax(energy, dim=-1)
    entropy = -(attention * attention.clamp(min=1e-30).log()).sum(-1).mean().item()
    assert entropy > 0.3 * math.log(961)


@pytest.mark.parametrize("name", ["mhsa templ", "vit"])
def test_torchs_flop_counter_sees_the_whole_model(name: str) -> None:
    model = variant(name, align=True).eval()
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH):  # it knows no fused attention of a CPU
        template = model.template(crop(127, seed=0))
        with FlopCounterMode(display=False) as counter:
            model.track(crop(255, seed=1), template)
    seen = {str(operator): count for operator, count in counter.get_flop_counts()["Global"].items()}
    assert seen["torchvision.deform_conv2d"] == 2 * 16 * 16 * 9 * 25 * 25
    assert any("attention" in operator or "bmm" in operator for operator in seen)
    assert any("convolution" in operator for operator in seen)


def test_lora_begins_as_the_same_net_and_alone_of_the_trunk_moves(tmp_path: Path) -> None:
    """Rank 0 is a net without; a file without it fills one with it; in training the trunk rests beyond UNFIX_EPOCH."""
    plain = variant("vit")
    weights = tmp_path / "plain.pth"
    torch.save(plain.features.state_dict(), weights)
    options = {**TINY_VIT, "lora": 2}
    with_it = build_model(backbone="ViT_small", backbone_options=options, channels=16, towernum=1)
    report = import_pretrained(with_it, plain.features.state_dict(), source="plain.pth")
    assert report.loaded == len(plain.features.state_dict())
    assert len(report.missing) == 2 * 4 * TINY_VIT["depth"]
    x = torch.rand(1, 3, 127, 127) * 255
    torch.testing.assert_close(with_it.features(x)[1], plain.features(x)[1])

    cfg = tiny_yaml(tmp_path, BACKBONE="ViT_small", BACKBONE_OPTIONS=options, PRETRAIN=str(weights), UNFIX_EPOCH=1,
                    END_EPOCH=2, RANDOM_TRUNK=False)
    assert commands.call("train", ["--cfg", str(cfg)]) == 0
    trained = load_model(tmp_path / "snapshot" / "checkpoint_e2.pth")
    for name, tensor in plain.features.state_dict().items():
        layer, _, weight = name.rpartition(".")
        parts = trained.features.get_submodule(layer)
        if hasattr(parts, "parametrizations") and weight in parts.parametrizations:
            assert not torch.equal(getattr(parts, weight), tensor), name
            assert torch.equal(parts.parametrizations[weight].original, tensor), name
        else:
            assert torch.equal(trained.features.state_dict()[name], tensor), name
    again = build_model(backbone="ViT_small", backbone_options=options, channels=4, towernum=1)
    assert not import_pretrained(again, trained.state_dict(), source="whole.pth").missing
    with pytest.raises(UserError, match="frozen at random weights for ever"):
        commands.call("train", ["--cfg", str(cfg), "TRAIN.PRETRAIN=False", "TRAIN.UNFIX_EPOCH=0",
                                f"CHECKPOINT_DIR={tmp_path / 'new'}"])
    with pytest.raises(UserError, match="lora 17"):
        build_model(backbone="ViT_small", backbone_options={**TINY_VIT, "lora": 17})
