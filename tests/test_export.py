"""Exported models: PyTorch's answers for every search size, the same calls, and failures that leave nothing."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tracker_stubs import small_model, square_frames, write_squares

from lib.checkpoint import params_beside, save_checkpoint
from lib.commands import call
from lib.errors import UserError
from lib.models.ocean import OceanOutput, TemplateFeatures
from lib.options import ExportOptions
from lib.testing.opening import open_tracker
from lib.testing.run import params_for
from lib.tools.export import Row, export, table
from lib.tools.export_graph import (
    Check,
    Difference,
    as_input,
    difference,
    kept_in_float,
    largest_difference,
    real_pairs,
    write_graphs,
)
from lib.tools.measure import Speed, calibrate_bn, load_videos
from lib.tracker.ocean import OceanTracker
from lib.tracker.onnx import build_features, features_layout, load_onnx, named_features, read_record
from lib.tracker.params import TrackerParams

pytest.importorskip("onnx", reason="the extra 'export' is not installed")
pytest.importorskip("onnxscript", reason="the extra 'export' is not installed")
pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")


class Exported:
    """A small model with the object-aware branch, exported once for all tests of this file."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.model = calibrate_bn(small_model(align=True))
        with torch.no_grad():  # the same function, with a variance that float16 cannot hold, as trained stems have it
            stem = self.model.features.features
            factor = (1e5 / stem.bn1.running_var.max()).sqrt()
            stem.conv1.weight *= factor
            stem.bn1.running_mean *= factor
            stem.bn1.running_var *= factor**2
        self.checkpoint = root / "checkpoint_e1.pth"
        save_checkpoint(self.checkpoint, {"epoch": 1, "arch": "Ocean", "state_dict": self.model.state_dict(),
                                          "model": self.model.spec})
        self.pairs = real_pairs(load_videos("MINE", write_squares(root / "MINE", {"A": 6, "B": 6}).parent), 12)
        self.check = Check.of(self.model, self.pairs[1::2])
        (root / "graphs").mkdir()
        self.graphs = write_graphs(self.model, root / "graphs", opset=19)
        self.folder = export(self.graphs, self.options(root / "out"), "fp32", [], self.check)

    def options(self, out: Path, *, tolerance: tuple[float, ...] = ()) -> ExportOptions:
        return ExportOptions(out=out, checkpoint=self.checkpoint, opset=19, tolerance=tolerance)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return Exported(tmp_path_factory.mktemp("export"))


def test_one_graph_answers_for_every_search_size_as_pytorch_does(exported: Exported) -> None:
    assert {pair.search.shape[0] for pair in exported.pairs} == {255, 271, 287}
    record = read_record(exported.folder)
    assert record.differences["score"] < 1e-5
    assert record.differences["box"] < 1e-3
    assert record.model == exported.model.spec
    onnx = load_onnx(exported.folder)
    z, x = as_input(exported.pairs[0].template), as_input(exported.pairs[0].search)
    with torch.inference_mode():
        torch.testing.assert_close(onnx(z, x)[:3], exported.model(z, x)[:3], atol=1e-4, rtol=1e-4)


def test_settings_beside_the_weights_go_along(exported: Exported, tmp_path: Path) -> None:
    assert params_beside(exported.folder) is None
    checkpoint = Path(shutil.copy(exported.checkpoint, tmp_path / "mine.pth"))
    (tmp_path / "mine.yaml").write_text("TEST: {lr: 0.25, tuned_on: held-out videos}")
    options = ExportOptions(out=tmp_path / "out", checkpoint=checkpoint)
    folder = export(exported.graphs, options, "fp32", [], exported.check)
    params, source = params_for(None, "OTB2015", arch="OceanONNX", checkpoint=folder)
    assert (params.lr, params.tuned_on, source) == (0.25, "held-out videos", str(folder / "tracker.yaml"))


def test_it_takes_the_threads_that_torch_was_given(exported: Exported) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert load_onnx(exported.folder)._search.get_session_options().intra_op_num_threads == 1
    finally:
        torch.set_num_threads(before)


def test_the_same_tracker_runs_it_one_target_or_several(exported: Exported) -> None:
    params = TrackerParams()
    ours = OceanTracker(exported.model, params)
    theirs = open_tracker("OceanONNX", exported.folder, params, device="cpu")
    frames = list(square_frames(4))
    states = [tracker.init(*frames[0]) for tracker in (ours, theirs)]
    for image, _ in frames[1:]:
        states = [tracker.track(state, image) for tracker, state in zip((ours, theirs), states, strict=True)]
        np.testing.assert_allclose(states[1].box_xywh, states[0].box_xywh, atol=1e-2)
        assert states[1].score == pytest.approx(states[0].score, abs=1e-4)
    both = theirs.track_batch([states[1], states[1]], [frames[1][0], frames[2][0]])
    np.testing.assert_allclose(both[1].box_xywh, theirs.track(states[1], frames[2][0]).box_xywh, atol=1e-6)


def test_a_lost_target_is_looked_for_as_by_pytorch_without_features(exported: Exported) -> None:
    params = TrackerParams(lost_below=0.999)  # which nothing reaches
    ours = OceanTracker(exported.model, params)
    ours._track = lambda x, template: exported.model.track(x, template)._replace(search=None)
    theirs = open_tracker("OceanONNX", exported.folder, params, device="cpu")
    frames = list(square_frames(5))
    states = [tracker.init(*frames[0]) for tracker in (ours, theirs)]
    for number, (image, _) in enumerate(frames[1:], start=1):
        states = [tracker.track(state, image) for tracker, state in zip((ours, theirs), states, strict=True)]
        assert [state.away for state in states] == [number, number]
        assert states[1].box_xywh.tolist() == states[0].box_xywh.tolist() == frames[0][1].tolist()  # it rests
        assert states[1].presence == pytest.approx(states[0].presence, abs=1e-4)


def test_the_branch_is_left_out_on_request_and_required_in_one_line(exported: Exported, tmp_path: Path) -> None:
    z, x = as_input(exported.pairs[0].template), as_input(exported.pairs[0].search)
    without = load_onnx(exported.folder, align=False)
    assert without(z, x).cls_aligned is None
    assert without.spec["align"] is False
    plain = tmp_path / "plain"
    shutil.copytree(exported.folder, plain)
    record = json.loads((plain / "export.json").read_text(encoding="utf-8"))
    record["model"]["align"] = False
    (plain / "export.json").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(UserError, match="without the object-aware branch"):
        load_onnx(plain, align=True)


def test_bf16_halves_the_file_and_rounds_the_weights(exported: Exported, tmp_path: Path) -> None:
    folder = export(exported.graphs, exported.options(tmp_path), "bf16", [], exported.check)
    graph = "search.onnx"
    assert (folder / graph).stat().st_size < 0.75 * (exported.folder / graph).stat().st_size
    rounded = largest_difference(exported.check, load_onnx(folder))
    assert 1e-6 < rounded.score < 0.05


def test_fp16_computes_in_half_the_bits(exported: Exported, tmp_path: Path) -> None:
    folder = export(exported.graphs, exported.options(tmp_path), "fp16", [], exported.check)
    for graph in ("template.onnx", "search.onnx"):
        assert (folder / graph).stat().st_size < 0.75 * (exported.folder / graph).stat().st_size
    rounded = largest_difference(exported.check, load_onnx(folder))
    assert 1e-6 < rounded.score < 0.02
    assert rounded.box < 2


def test_int8_keeps_the_head_and_the_correlation_in_float(exported: Exported, tmp_path: Path) -> None:
    import onnx

    folder = export(exported.graphs, exported.options(tmp_path), "int8", exported.pairs[::2], exported.check)
    nodes = onnx.load(folder / "search.onnx").graph.node
    kinds = [node.op_type for node in nodes]
    assert kinds.count("QuantizeLinear") > 10
    maker = {name: node for node in nodes for name in node.output}
    sources = {node.op_type: maker[node.input[place]].op_type for node in nodes
               for kind, place in (("Exp", 0), ("DeformConv", 2)) if node.op_type == kind}
    assert sources.keys() == {"Exp", "DeformConv"}  # the exponents of the box sides, and the offsets in pixels
    assert "DequantizeLinear" not in sources.values()
    kept = set(kept_in_float(exported.folder / "search.onnx"))
    original = onnx.load(exported.folder / "search.onnx").graph
    constants = {weight.name for weight in original.initializer}
    correlations = [n.name for n in original.node if n.op_type == "Conv" and n.input[1] not in constants]
    assert len(correlations) == 6
    assert kept.issuperset(correlations)
    assert sum(n.op_type == "Conv" and n.name not in kept for n in original.node) > 10
    found = read_record(folder).differences
    assert found["score"] > 1e-6  # the check sees that it is another model
    assert found["box"] < 10  # of boxes up to 143 px: with weights of 8 bits it is 99 where a processor has no VNNI


def test_an_export_above_the_tolerance_fails_and_leaves_the_old_one(exported: Exported, tmp_path: Path) -> None:
    options = exported.options(tmp_path, tolerance=(1e-12, 1e-12))
    (tmp_path / "bf16").mkdir()
    (tmp_path / "bf16" / "old").touch()
    with pytest.raises(UserError, match="above the tolerance of 1e-12; nothing is kept"):
        export(exported.graphs, options, "bf16", [], exported.check)
    assert [path.name for path in tmp_path.iterdir()] == ["bf16"]
    assert (tmp_path / "bf16" / "old").exists()


def test_a_graph_that_is_not_the_exported_one_is_refused(exported: Exported, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(exported.folder, folder)
    with (folder / "search.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(UserError, match=r"search\.onnx: not the graph that was checked"):
        load_onnx(folder)
    with pytest.raises(UserError, match=r"not an exported model \(no export\.json\)"):
        load_onnx(tmp_path)


def test_providers_and_formats_that_are_not_there_are_named(exported: Exported) -> None:
    import onnxruntime

    params = TrackerParams()
    if "TensorrtExecutionProvider" not in onnxruntime.get_available_providers():
        with pytest.raises(UserError, match="has no TensorrtExecutionProvider"):
            open_tracker("OceanTRT", exported.folder, params)
    with pytest.raises(UserError, match="has its number format already"):
        open_tracker("OceanONNX", exported.folder, params, amp="bf16")
    with pytest.raises(UserError, match="did you mean OceanONNX"):
        open_tracker("OceanONX", exported.folder, params)


def test_the_branch_needs_an_opset_that_has_deformable_convolution(exported: Exported, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--opset 18: the object-aware branch needs DeformConv"):
        write_graphs(exported.model, tmp_path, opset=18)


@pytest.mark.parametrize(("features", "names"), [
    (TemplateFeatures(torch.zeros(1), (torch.ones(1), torch.ones(2)), (torch.ones(3),), None),
     ["zf", "cls_0", "cls_1", "reg_0"]),
    (TemplateFeatures(None, (), (), torch.zeros(4)), ["raw"]),
])
def test_template_features_survive_being_flattened(features: TemplateFeatures, names: list[str]) -> None:
    layout = json.loads(json.dumps(features_layout(features)))
    flat = named_features(features)
    assert list(flat) == names
    rebuilt = build_features(list(flat.values()), layout)
    assert [type(part) for part in rebuilt] == [type(part) for part in features]
    again = named_features(rebuilt)
    assert list(again) == names
    assert all(again[name] is flat[name] for name in names)


def test_a_difference_counts_the_cells_that_matter_and_never_hides_a_nan() -> None:
    cls = torch.full((1, 1, 3, 3), -4.0)
    cls[..., 1, 1] = 4.0
    true = OceanOutput(torch.full((1, 4, 3, 3), 20.0), cls, None)
    far = true.ltrb.clone()
    far[..., 0, 0] += 50
    far[..., 1, 1] += 2
    assert difference(true, OceanOutput(far, cls, None)) == Difference(0.0, 2.0)
    shifted = difference(true, OceanOutput(true.ltrb, cls + 1, None))
    assert shifted.score == pytest.approx((torch.tensor(-3.0).sigmoid() - torch.tensor(-4.0).sigmoid()).item())
    broken = difference(true, OceanOutput(true.ltrb * torch.nan, cls, None))
    assert broken.box == float("inf")


def test_the_table_shows_each_format_beside_pytorch() -> None:
    rows = [Row("PyTorch fp32", 10.0, None, Speed(49.0, 50.0, 51.0), {"success": 0.5, "precision": 0.7}),
            Row("ONNX int8", 2.5, Difference(0.03, 1.5), Speed(19.0, 20.0, 21.0), {"success": 0.49, "precision": 0.71})]
    text = table(rows, dataset="OTB2015", notes=["9 of 100 sequences", "tuned on OTB2015"], where="a machine")
    assert "| PyTorch fp32 | 10.0 |  |  | 20.0 | 1.00 | 0.500 |  | 0.700 |  |" in text
    assert "| ONNX int8 | 2.5 | 0.03 | 1.5 px | 50.0 | 2.50 | 0.490 | -0.010 | 0.710 | +0.010 |" in text
    assert "9 of 100 sequences; tuned on OTB2015." in text


def test_what_cannot_be_written_or_exported_ends_in_one_line(exported: Exported, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    data = ["--dataset", "MINE", "--dataset_dir", str(exported.root / "MINE"), "--crops", "2"]
    with pytest.raises(UserError, match=r"--out .*file/x: cannot be written"):
        call("export", ["gone.pth", "--out", str(tmp_path / "file" / "x"), *data])
    with pytest.raises(UserError, match="expected two numbers"):
        call("export", [str(exported.checkpoint), "--out", str(tmp_path), "--tolerance", "1", *data])
    weights = {name: tensor * 1e15 if name.endswith("conv1.weight") else tensor
               for name, tensor in exported.model.state_dict().items()}
    save_checkpoint(tmp_path / "wild.pth", {"arch": "Ocean", "state_dict": weights, "model": exported.model.spec})
    with pytest.raises(UserError, match="NaN or infinite numbers on real crops"):
        call("export", [str(tmp_path / "wild.pth"), "--out", str(tmp_path / "out"), "--precision", "int8", *data])


def test_a_graph_tells_nothing_of_the_machine_it_was_made_on(exported: Exported) -> None:
    content = (exported.folder / "search.onnx").read_bytes()
    assert str(Path(__file__).resolve().parents[1]).encode() not in content
    assert b"stack_trace" not in content
