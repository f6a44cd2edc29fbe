"""Trunks of timm: the tracker's grid, weights of other projects, and a whole way from training to ONNX."""

from pathlib import Path

import pytest
import torch
from tracker_stubs import write_squares
from train_helpers import snapshot, tiny_yaml

from lib import commands
from lib.checkpoint import import_pretrained, load_model, save_checkpoint
from lib.errors import UserError
from lib.models.models import build_model
from lib.models.pretrained import IMAGENET
from lib.tracker.online import OnlineTracker

timm = pytest.importorskip("timm", reason="the package timm is not here")
SMALL = {"name": "mobilenetv3_small_050"}


def trunk(**options: object) -> torch.nn.Module:
    return build_model(backbone="timm", backbone_options=options, channels=8, towernum=1, align=False).features.eval()


def picture(side: int) -> torch.Tensor:
    return torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)) * 255


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "mobilenetv3_small_050", "resnet10t", "convnext_atto",
                                  "botnet26t_256"])
def test_cells_lie_on_the_trackers_grid(name: str) -> None:
    """A crop moved by a cell moves the map of stride 8 by one cell, one moved by 16 px also that of stride 16."""
    net, large = trunk(name=name, strides=[8, 16]), picture(303)
    with torch.no_grad():
        for size, side in ((127, 15), (255, 31), (271, 33), (287, 35)):
            assert net(large[..., :size, :size])[1].shape[-2:] == (side, side)
        maps = {shift: net(large[..., shift : shift + 255, :255]) for shift in (0, 8, 16)}
        fine = net.features.feature_info[net.stages[0]]["num_chs"]
        first, eight, sixteen = (maps[shift][1] for shift in (0, 8, 16))

    def difference(one: torch.Tensor, rows: slice, other: torch.Tensor) -> float:
        return float((one[..., rows, 8:23] - other[..., 8:22, 8:23]).abs().mean())

    wrong = difference(first[:, :fine], slice(8, 22), eight[:, :fine])
    assert difference(first[:, :fine], slice(9, 23), eight[:, :fine]) < 0.05 * wrong
    wrong = difference(first, slice(8, 22), sixteen)
    assert difference(first, slice(10, 24), sixteen) < 0.35 * wrong  # what a stride of 16 sees reaches to the border


@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_lite0"])
def test_it_computes_what_timm_computes(name: str) -> None:
    """The map of stride 8 is that of timm's whole net for the same picture, normalised and padded by hand.

    TensorFlow's padding depends on the size of the picture in timm's own convolutions.
    """
    net, whole = trunk(name=name, strides=[8]), timm.create_model(name).eval()
    whole.load_state_dict(net.features.state_dict(), strict=False)
    mean, std = (torch.tensor(whole.pretrained_cfg[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        for side in (127, 255, 271):
            padded = torch.nn.functional.pad((picture(side).flip(1) / 255 - mean) / std, (1, 1, 1, 1))
            expected = whole.forward_intermediates(padded, indices=net.stages, intermediates_only=True)[0]
            torch.testing.assert_close(net(picture(side))[1], expected[..., 1:-1, 1:-1], rtol=1e-4, atol=1e-4)


def test_dilated_the_map_of_stride_16_lies_on_the_grid_of_stride_8() -> None:
    """A crop moved by one cell moves all of it by one."""
    net, large = trunk(name="resnet10t", strides=[16], dilated=True), picture(303)
    with torch.no_grad():
        assert net(large[..., :127, :127])[1].shape[-1] == 15
        first, eight = (net(large[..., shift : shift + 255, :255])[1] for shift in (0, 8))
    wrong = float((first[..., 8:22, 8:23] - eight[..., 8:22, 8:23]).abs().mean())
    assert float((first[..., 9:23, 8:23] - eight[..., 8:22, 8:23]).abs().mean()) < 0.05 * wrong


def test_relative_positions_are_timms_at_its_own_size_and_the_same_pixels_at_another() -> None:
    """botnet26t_256's tables are for 16 x 16 cells; of a map of 9 cells they give what a table cut to it gives."""
    theirs = timm.create_model("botnet26t_256").stages[2][1].self_attn.eval()
    for table in (theirs.pos_embed.height_rel, theirs.pos_embed.width_rel):
        torch.nn.init.normal_(table)
    own = {step: trunk(name="botnet26t_256", strides=[8, 16], dilated=step == 0.5).features.stages[2][1].self_attn
           for step in (1.0, 0.5)}
    for attention in own.values():
        attention.load_state_dict(theirs.state_dict())
    whole, part = (torch.randn(2, 256, side, side) for side in (16, 9))
    with torch.no_grad():
        torch.testing.assert_close(own[1.0](whole), theirs(whole))
        small = timm.create_model("botnet26t_256", img_size=144).stages[2][1].self_attn.eval()
        small.load_state_dict({name: tensor[7:24] if name.endswith("_rel") else tensor
                               for name, tensor in theirs.state_dict().items()})
        torch.testing.assert_close(own[1.0](part), small(part))
        own[1.0](part), own[0.5](part)
        tables = [own[step].pos_embed._offsets(theirs.pos_embed.height_rel, side)
                  for step, side in ((1.0, 9), (0.5, 17))]
        torch.testing.assert_close(tables[1][::2, ::2], tables[0])  # cells of 8 px: every other one is of 16


def test_weights_in_the_names_of_efficientnet_pytorch() -> None:
    """The same layers in the same order under other names, and pixels of another scale."""
    own = timm.create_model("tf_efficientnet_lite0").state_dict()
    foreign = {f"_conv_stem.{index}" if index else "_conv_stem.weight": tensor + 1
               for index, tensor in enumerate(own.values())}
    model = build_model(backbone="timm", backbone_options={"name": "tf_efficientnet_lite0"}, channels=8, towernum=1)
    import_pretrained(model, foreign, source="lite0.pth")
    for name, tensor in model.features.features.state_dict().items():
        torch.testing.assert_close(tensor, own[name] + 1)
    assert model.features.mean.flatten().tolist() == [127.0] * 3
    assert model.features.std.flatten().tolist() == [128.0] * 3


def test_weights_of_another_net_are_refused() -> None:
    model = build_model(backbone="timm", backbone_options=SMALL, channels=8, towernum=1)
    with pytest.raises(UserError, match=r"lite0\.pth.*missing"):
        import_pretrained(model, timm.create_model("tf_efficientnet_lite0").state_dict(), source="lite0.pth")


@pytest.mark.parametrize(("options", "words"), [
    ({"name": "mobilenetv3_smal_050"}, ["mobilenetv3_smal_050", "did you mean", "mobilenetv3_small_050"]),
    ({"name": "vit_tiny_patch16_224"}, ["vit_tiny_patch16_224", "expected [8] or [8, 16]"]),
    ({"name": "convnext_atto", "dilated": True}, ["convnext_atto", "expected 33", "cannot be brought"]),
    ({"name": "mobilenetv3_small_050", "dilated": True}, ["cannot be brought to stride 8", "leave dilated out"]),
    ({"name": "swin_tiny_patch4_window7_224"}, ["swin_tiny", "takes no picture of 257 px"]),
    ({"name": "mobilenetv3_small_050", "strides": [16]}, ["strides [16]", "expected [8]"]),
], ids=["misspelt", "no stride 8", "dilated patches", "no dilation", "one size only", "without stride 8"])
def test_what_cannot_be_a_trunk_is_one_line(options: dict[str, object], words: list[str]) -> None:
    with pytest.raises(UserError) as error:
        build_model(backbone="timm", backbone_options=options)
    assert all(word in str(error.value) for word in words)
    assert "\n" not in str(error.value)


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(UserError, match="pip install timm"):
        build_model(backbone="timm", backbone_options=SMALL)


def test_training_freezes_and_frees_it_and_the_checkpoint_loads(tmp_path: Path) -> None:
    weights = tmp_path / "net.pth"
    torch.save(timm.create_model(SMALL["name"]).state_dict(), weights)
    cfg = tiny_yaml(tmp_path, BACKBONE="timm", BACKBONE_OPTIONS=SMALL, PRETRAIN=str(weights), UNFIX_EPOCH=1,
                    TRAINABLE_LAYER=["blocks.2"], END_EPOCH=2)
    assert commands.call("train", ["--cfg", str(cfg)]) == 0
    before = torch.load(weights, weights_only=True)
    after = snapshot(tmp_path, "checkpoint_e2.pth")["state_dict"]
    moved = {name for name, tensor in before.items()
             if f"features.features.{name}" in after and not torch.equal(tensor, after[f"features.features.{name}"])}
    assert moved
    assert all(name.startswith("blocks.2.") for name in moved)
    model = load_model(tmp_path / "snapshot" / "checkpoint_e2.pth")
    assert model(picture(127), picture(255)).cls.shape == (1, 1, 25, 25)


def test_weights_by_timms_own_loading_from_its_cache_and_one_line_without_a_network(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache is laid out by hand as the hub's client lays it out; another net is not in it, and there is no hub."""
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    net = timm.create_model(SMALL["name"])
    folder = tmp_path / "cache" / f"models--timm--{net.pretrained_cfg['hf_hub_id'].rpartition('/')[2]}"
    (folder / "snapshots" / "a").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("a", encoding="utf-8")
    file = folder / "snapshots" / "a" / "model.safetensors"
    pytest.importorskip("safetensors.torch").save_file(net.state_dict(), file)
    cfg = tiny_yaml(tmp_path, BACKBONE="timm", BACKBONE_OPTIONS=SMALL, UNFIX_EPOCH=2, END_EPOCH=2, RANDOM_TRUNK=False,
                    TRAINABLE_LAYER=[])
    assert commands.call("train", ["--cfg", str(cfg), f"TRAIN.PRETRAIN=timm:{SMALL['name']}"]) == 0
    resting = snapshot(tmp_path, "checkpoint_e1.pth")["state_dict"]
    torch.testing.assert_close(resting["features.features.conv_stem.weight"], net.state_dict()["conv_stem.weight"])
    for name, words in (("resnet18", r"timm:resnet18: .*where there is no network, name a file"),
                        ("resnet81", "timm has no net 'resnet81'; did you mean resnet")):
        with pytest.raises(UserError, match=words) as error:
            commands.call("train", ["--cfg", str(cfg), f"TRAIN.PRETRAIN=timm:{name}"])
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "regnetx_002", "convnext_atto"])
def test_the_online_branch_is_the_nets_own_stages_and_its_cells_lie_at_16_i(name: str) -> None:
    """The same map as timm's from the same pixels; a cell moves with its 16 px and, where it sees few, is in midst."""
    net, large = build_model(backbone="timm", backbone_options={"name": name}, channels=8, towernum=1, online=True,
                             online_pixels="raw").eval().features, picture(304)
    with torch.no_grad():
        assert net.online(large[..., :288, :288]).shape[-2:] == (17, 17)
        first, moved = (net.online(large[..., shift:shift + 224, :224]) for shift in (0, 16))
        padded = torch.nn.functional.pad((large[..., :224, :224].flip(1) - net.mean) / net.std, (0, 1, 0, 1))
        torch.testing.assert_close(first, net._maps(padded)[1][..., :13, :13])
    wrong = (first[..., 3:9, 3:9] - moved[..., 3:9, 3:9]).abs().mean()
    assert (first[..., 4:10, 3:9] - moved[..., 3:9, 3:9]).abs().mean() < 0.35 * wrong
    if name == "regnetx_002":
        crop = large[..., :224, :224].requires_grad_()
        net.online(crop)[0, :, 6, 6].square().sum().backward()
        seen = crop.grad.abs().sum((0, 1)).sum(0).nonzero().flatten()
        assert (seen.min() + seen.max()) / 2 == 16 * 6


def test_the_online_branch_trains_beside_a_resting_trunk_and_tracks(tmp_path: Path) -> None:
    tracker = build_model(backbone="timm", backbone_options=SMALL, channels=8, towernum=1)
    save_checkpoint(tmp_path / "tracker.pth", {"state_dict": tracker.state_dict(), "model": tracker.spec})
    cfg = tiny_yaml(tmp_path, top={"DATASET": {"PAIRS": 2, "SYN": {"FORMAT": "synthetic", "RANGE": 30}}},
                    BACKBONE="timm", BACKBONE_OPTIONS=SMALL, CHANNELS=8, TOWERNUM=1, ONLINE="raw", RANDOM_TRUNK=False,
                    PRETRAIN=str(tmp_path / "tracker.pth"), BATCH=2, END_EPOCH=1, WARMUP={"IFNOT": False})
    assert commands.call("train", ["--cfg", str(cfg)]) == 0
    before, after = tracker.state_dict(), snapshot(tmp_path, "checkpoint_e1.pth")["state_dict"]
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    layer = "features.features.{}.3.0.conv_pw.weight"
    assert not torch.equal(after[layer.format("layeronline")], before[layer.format("blocks")])
    online = OnlineTracker.from_weights(tmp_path / "snapshot" / "checkpoint_e1.pth")
    image = picture(240)[0].permute(1, 2, 0).byte().numpy()
    state = online.init(image, [100, 80, 40, 60])
    assert online.track(state, image).look.scores.shape == (14, 14)
    assert "layeronline" not in "".join(online.model.trunk_layers())


def test_the_online_branch_is_filled_from_the_nets_stages_and_it_is_said() -> None:
    options = {"backbone": "timm", "backbone_options": SMALL, "channels": 8, "towernum": 1}
    weights, model = build_model(**options).state_dict(), build_model(**options, online=True, online_pixels="raw")
    assert "layeronline, which the file lacks, filled from blocks (" in str(
        import_pretrained(model, weights, source="a.pth"))
    for name, tensor in model.state_dict().items():
        if "layeronline" in name:
            assert torch.equal(tensor, weights[name.replace("layeronline", "blocks")])


@pytest.mark.parametrize(("options", "words"), [
    ({"strides": [8]}, "expected a net of such stages with strides [8, 16]"),
    ({"name": "resnet10t", "dilated": True}, "without dilated"),
    ({"name": "densenet121"}, "densenet121: its online branch is a copy of the stages of stride 16"),
    ({"pixels": "imagenet"}, "online_pixels 'imagenet': expected 'raw'")])
def test_what_cannot_have_the_online_branch_is_one_line(options: dict[str, object], words: str) -> None:
    pixels = options.pop("pixels", "raw")
    with pytest.raises(UserError) as error:
        build_model(backbone="timm", backbone_options=SMALL | options, online=True, online_pixels=pixels)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_it_exports_to_onnx(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    model = build_model(backbone="timm", backbone_options=SMALL, channels=8, towernum=1, align=False).eval()
    save_checkpoint(tmp_path / "tiny.pth", {"state_dict": model.state_dict(), "model": model.spec})
    write_squares(tmp_path / "squares", {"A": 6, "B": 6})
    words = ["--dataset", "squares", "--dataset_dir", str(tmp_path / "squares"), "--crops", "4", "--frames", "2",
             "--score", "False"]
    assert commands.call("export", [str(tmp_path / "tiny.pth"), "--out", str(tmp_path / "export"), *words]) == 0
    assert (tmp_path / "export" / "fp32" / "export.json").is_file()


@pytest.mark.parametrize(("patch", "scale", "registers"), [(16, None, 0), (16, 0.3, 4), (8, None, 0)],
                         ids=["MAE, DINO", "DINOv2", "patches of 8 px"])
def test_timms_transformers_compute_the_same_in_the_trackers_trunk(patch: int, scale: float | None,
                                                                    registers: int) -> None:
    """Block by block, on the same tokens: names, scales and normalisation are brought over exactly."""
    torch.manual_seed(0)
    theirs = timm.models.VisionTransformer(img_size=64, patch_size=patch, embed_dim=16, depth=2, num_heads=2,
                                           init_values=scale, reg_tokens=registers, num_classes=3).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model = build_model(backbone="ViT", backbone_options={"dim": 16, "depth": 2, "heads": 2}, channels=8).eval()
    report = import_pretrained(model, theirs.state_dict(), source="vit.pth")
    ours = model.features
    assert report.loaded == len(ours.state_dict())
    assert "features.heads.head.weight" in report.skipped
    tokens = torch.randn(1, 49, 16)
    with torch.no_grad():
        expected = theirs.norm(theirs.blocks(tokens))
        for block in ours.blocks:
            tokens = block(tokens)
        torch.testing.assert_close(ours.ln(tokens), expected, rtol=1e-4, atol=1e-4)
        if patch == 16:
            bgr = picture(255)
            mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (IMAGENET.mean, IMAGENET.std))
            padded = torch.nn.functional.pad((bgr.flip(1) - mean) / std, (0, 1, 0, 1), mode="replicate")
            patches = ours.embed(bgr) - ours.positions.of_side(31)
            torch.testing.assert_close(patches[..., ::2, ::2], theirs.patch_embed.proj(padded), rtol=1e-3, atol=1e-3)
    side = 64 // patch
    table = theirs.pos_embed[:, -side * side:].transpose(1, 2).unflatten(2, (side, side))
    expected = torch.nn.functional.interpolate(table, size=(31, 31), mode="bicubic")
    torch.testing.assert_close(ours.positions.table, expected)


def test_clips_transformer_computes_the_same_with_its_norm_before_the_blocks() -> None:
    """CLIP's has no bias at its patches, other pixels and another epsilon; all follow from its names and norm_pre."""
    torch.manual_seed(0)
    theirs = timm.models.VisionTransformer(img_size=64, patch_size=16, embed_dim=16, depth=2, num_heads=2,
                                           pre_norm=True, norm_layer=torch.nn.LayerNorm, num_classes=3).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    options = {"dim": 16, "depth": 2, "heads": 2}
    with pytest.raises(UserError, match=r"unexpected: features\.ln_pre"):
        import_pretrained(build_model(backbone="ViT", backbone_options=options), theirs.state_dict(), source="clip.pth")
    model = build_model(backbone="ViT", backbone_options=options | {"norm_pre": True}, channels=8).eval()
    import_pretrained(model, theirs.state_dict(), source="clip.pth")
    bgr, tokens = picture(255), torch.randn(1, 49, 16)
    known = timm.get_pretrained_cfg("vit_base_patch16_clip_224.openai")
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (known.mean, known.std))
    with torch.no_grad():
        torch.testing.assert_close(model.features._encode(tokens), theirs.norm(theirs.blocks(theirs.norm_pre(tokens))),
                                   rtol=1e-4, atol=1e-4)
        padded = torch.nn.functional.pad((bgr.flip(1) / 255 - mean) / std, (0, 1, 0, 1), mode="replicate")
        patches = model.features.embed(bgr) - model.features.positions.of_side(31)
        torch.testing.assert_close(patches[..., ::2, ::2], theirs.patch_embed.proj(padded), rtol=1e-3, atol=1e-3)
