"""From a model to its two ONNX graphs, in float32 or narrower numbers, and how near they are to PyTorch on real crops.

Narrower are float16, weights stored as bfloat16, and 8 bits after a calibration.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lib.benchmarks import Benchmark, Sequence as Video
from lib.boxes import Boxes
from lib.crops import TEMPLATE_SIZE, context_side, mean_colour, subwindow
from lib.errors import UserError, one_line
from lib.images import read_image
from lib.models.ocean import Ocean_, OceanOutput, TemplateFeatures
from lib.tracker.ocean import TrackerState, search_crop
from lib.tracker.onnx import CROP, GRAPHS, SEARCH, Layout, build_features, features_layout, named_features

DEFORM_OPSET = 19  # the first with DeformConv, which the object-aware branch is made of
EXAMPLE_SIDE = 271  # px of the search crop that the graph is traced with; its size stays free
SEARCH_SIZES = (255, 271, 287)
Feed = Mapping[str, NDArray[np.float32]]  # a call of a graph: arrays by input name
_NO_TEMPLATE = TemplateFeatures(None, (), ())
MIN_STORED = 1024  # numbers; a smaller tensor is not worth a conversion
# Operators with 8-bit kernels worth having; a Clip (ReLU6) among them lets the convolution before it be quantized by
# the range that is left after it.
QUANTIZED = ["Conv", "Gemm", "MatMul", "Add", "Relu", "Clip", "MaxPool"]
_WEIGHTED = ("Conv", "Gemm", "MatMul")


class _Template(nn.Module):
    """template_crop (1, 3, 127, 127) to the template features, an output each."""

    def __init__(self, model: Ocean_) -> None:
        super().__init__()
        self.model = model

    def forward(self, z: Tensor) -> tuple[Tensor, ...]:
        return tuple(named_features(self.model.template(z)).values())


class _Search(nn.Module):
    """search_crop (1, 3, H, H) and the template features to (cls, ltrb) or, with the branch, (cls, ltrb, aligned)."""

    def __init__(self, model: Ocean_, layout: Layout) -> None:
        super().__init__()
        self.model, self.layout = model, layout

    def forward(self, x: Tensor, template: list[Tensor]) -> tuple[Tensor, ...]:
        output = self.model.track(x, build_features(template, self.layout))
        return tuple(part for part in (output.cls, output.ltrb, output.cls_aligned) if part is not None)


class Graphs(NamedTuple):
    """The graphs of a model as the exporter gives them, in float32."""

    model: Ocean_
    folder: Path  # holds template.onnx and search.onnx
    layout: Layout  # of the template features


def write_graphs(model: Ocean_, folder: Path, *, opset: int) -> Graphs:
    """Write `template.onnx` and `search.onnx` of a model in eval mode.

    One crop at a time, with a free search size; BatchNorm is folded into the convolutions. Raises UserError where the
    opset or the exporter cannot express the model.
    """
    if model.align_head is not None and opset < DEFORM_OPSET:
        raise UserError(f"--opset {opset}: the object-aware branch needs DeformConv, which ONNX has from opset "
                        f"{DEFORM_OPSET} on; leave --opset out, or export with --align False")
    z, x = (torch.zeros(1, 3, side, side) for side in (TEMPLATE_SIZE, EXAMPLE_SIDE))
    with torch.no_grad():
        template = model.template(z)
    layout = features_layout(template)
    named = named_features(template)
    names, parts = list(named), list(named.values())
    outputs = ["cls", "ltrb", *(["cls_aligned"] if model.align_head is not None else [])]
    free = {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    _export(_Template(model), (z,), folder / "template.onnx", opset=opset, inputs=[CROP], outputs=names)
    _export(_Search(model, layout), (x, parts), folder / "search.onnx", opset=opset, inputs=[SEARCH, *names],
            outputs=outputs, dynamic=(free, [None] * len(parts)))
    return Graphs(model, folder, layout)


def _export(module: nn.Module, example: tuple[Any, ...], path: Path, *, opset: int, inputs: list[str],
            outputs: list[str], dynamic: Any = None) -> None:
    try:
        with quiet():
            torch.onnx.export(module.eval(), example, str(path), dynamo=True, opset_version=opset, input_names=inputs,
                              output_names=outputs, dynamic_shapes=dynamic, external_data=False, verbose=False)
            _strip(path)
    except ImportError as error:
        raise UserError("exporting needs onnx and onnxscript; pip install -e '.[export]'") from error
    except torch.onnx.errors.OnnxExporterError as error:
        raise UserError(f"{path.name}: torch {torch.__version__} cannot export this model to ONNX opset {opset} "
                        f"({one_line(str(error))[:300]}); a newer torch or another --opset may") from error


def _strip(path: Path) -> None:
    """Take the exporter's notes out of a graph: it keeps the source lines of every node, with this machine's paths."""
    import onnx

    model = onnx.load(path)
    for part in (model, model.graph, *model.graph.node, *model.graph.value_info, *model.graph.initializer,
                 *model.graph.input, *model.graph.output):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    onnx.save(model, path)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the exporter's and the quantization tool's chatter away from the user; errors still raise."""
    loggers = [logging.getLogger(name) for name in ("", "torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


class Pair(NamedTuple):
    """A template crop and a search crop of one target, uint8 BGR."""

    template: NDArray[np.uint8]  # (127, 127, 3)
    search: NDArray[np.uint8]  # (H, H, 3)


class Difference(NamedTuple):
    """The largest differences of two models over pairs of crops."""

    score: float  # 0..1, over all cells of both scores
    box: float  # crop px, over the sides of the boxes in cells that score at least half of the map's best


def real_pairs(benchmark: Benchmark, count: int) -> list[Pair]:
    """Return `count` pairs cut from a test set, spread evenly over its videos and their frames, sizes in turn.

    The target is a little off the search crop's middle, as it is when tracking. Raises UserError for an image that
    cannot be read.
    """
    videos = benchmark.sequences
    each = -(-count // len(videos))
    pairs = [pair for number, video in enumerate(videos) for pair in _pairs_of(video, each, number)]
    return pairs[:: max(1, len(pairs) // count)][:count]


def _pairs_of(video: Video, count: int, number: int) -> Iterator[Pair]:
    first, box = read_image(video.frames[0]), video.boxes_xywh[0]
    fill = mean_colour(first)
    centre_xy, size_wh = box[:2] + box[2:] / 2, box[2:]
    template = subwindow(first, centre_xy, side=max(1, round(context_side(size_wh))), out_size=TEMPLATE_SIZE, fill=fill)
    rng = np.random.default_rng(number)
    for turn, index in enumerate(np.linspace(0, len(video) - 1, count).round().astype(int)):
        seen: Boxes = video.boxes_xywh[index]
        if not (seen[2:] > 0).all():  # the target is out of view
            continue
        centre = seen[:2] + seen[2:] * (0.5 + rng.uniform(-0.2, 0.2, 2))
        side = SEARCH_SIZES[(number + turn) % len(SEARCH_SIZES)]
        state = TrackerState(centre, seen[2:], 1.0, side, fill, _NO_TEMPLATE)
        yield Pair(template, search_crop(state, read_image(video.frames[index])).pixels)


def as_input(pixels: NDArray[np.uint8]) -> Tensor:
    """Return a crop (H, W, 3) as the network's input (1, 3, H, W), float32 0..255."""
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float()


class Check(NamedTuple):
    """Crops, and PyTorch's answers to them."""

    pairs: Sequence[Pair]
    answers: Sequence[OceanOutput]

    @classmethod
    def of(cls, model: Ocean_, pairs: Sequence[Pair]) -> Check:
        """Return the check of a model; UserError where its answers are not finite, as of a training that diverged."""
        with torch.inference_mode():
            found = [model(as_input(pair.template), as_input(pair.search)) for pair in pairs]
        if not all(part.isfinite().all() for output in found for part in output if part is not None):
            raise UserError("the network returns NaN or infinite numbers on real crops; take an earlier checkpoint")
        return cls(pairs, found)


def largest_difference(check: Check, other: Ocean_) -> Difference:
    """Return how far `other` is at most from the answers of a check; infinite where it is not finite."""
    with torch.inference_mode():
        found = [difference(output, other(as_input(pair.template), as_input(pair.search)))
                 for pair, output in zip(*check, strict=True)]
    return Difference(*np.max(found, axis=0).tolist())


def calibration_feeds(model: Ocean_, pairs: Sequence[Pair]) -> dict[str, list[Feed]]:
    """Return the calls that each graph is calibrated on."""
    feeds: dict[str, list[Feed]] = {graph: [] for graph in GRAPHS}
    with torch.inference_mode():
        for pair in pairs:
            z, x = as_input(pair.template), as_input(pair.search)
            template = model.template(z)
            parts = {name: part.numpy() for name, part in named_features(template).items()}
            feeds["template"].append({CROP: z.numpy()})
            feeds["search"].append({SEARCH: x.numpy(), **parts})
    return feeds


def difference(true: OceanOutput, other: OceanOutput) -> Difference:
    """Return the largest differences of two answers to the same crops; infinite where one is not finite."""
    scores = [(true.cls, other.cls)]
    if true.cls_aligned is not None:
        assert other.cls_aligned is not None, "the exported model lacks the object-aware branch"
        scores.append((true.cls_aligned, other.cls_aligned))
    gaps = [(a.sigmoid() - b.sigmoid()).abs().max().item() for a, b in scores]
    best = true.cls.sigmoid()
    strong = (best >= best.amax(dim=(2, 3), keepdim=True) / 2).expand_as(true.ltrb)
    box = (true.ltrb - other.ltrb).abs()[strong].max().item()
    return Difference(*np.nan_to_num([np.max(gaps), box], nan=np.inf, posinf=np.inf).tolist())


# ---- narrower numbers


def store_as_bf16(path: Path) -> None:
    """Rewrite a graph in place so that its weights are stored as bfloat16: half the file.

    They are widened when it is loaded and the arithmetic is float32, as ONNX Runtime has no bfloat16 convolution on
    CPUs. Rounding is to nearest even, as in training with bf16.
    """
    import onnx

    model = onnx.load(path)
    graph, casts = model.graph, []
    for weight in graph.initializer:
        if weight.data_type != onnx.TensorProto.FLOAT or np.prod(weight.dims) < MIN_STORED:
            continue
        values = torch.from_numpy(onnx.numpy_helper.to_array(weight).copy()).to(torch.bfloat16)
        raw = values.view(torch.int16).numpy().tobytes()
        casts.append(onnx.helper.make_node("Cast", [f"{weight.name}_bf16"], [weight.name], to=onnx.TensorProto.FLOAT))
        weight.CopyFrom(onnx.helper.make_tensor(f"{weight.name}_bf16", onnx.TensorProto.BFLOAT16, weight.dims, raw,
                                                raw=True))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.save(model, path)


def compute_in_fp16(path: Path) -> None:
    """Rewrite a graph in place so that it computes in float16, with float32 inputs and outputs.

    The conversion begins at the float32 graph, whose BatchNorm is folded into the convolutions: the variances behind it
    can exceed float16's 65504, the folded weights do not. What `kept_in_float` names stays float32.
    """
    import onnx

    with quiet():  # weights below float16's smallest number are rounded up to it, each said
        from onnxruntime.transformers.float16 import convert_float_to_float16

        model = convert_float_to_float16(onnx.load(path), keep_io_types=True, node_block_list=kept_in_float(path))
    onnx.save(model, path)


def quantize(path: Path, feeds: Sequence[Feed]) -> None:
    """Rewrite a graph in place in 8 bits: weights per channel, activations by their mean range over `feeds`.

    `feeds` are calls: arrays by input name. Left in float32: the correlation, attention's products, and everything
    from the head's last convolutions on.
    Raises UserError when ONNX Runtime's quantisation tool cannot do it.
    """
    if not feeds:
        raise UserError(f"{path.name}: no crops to calibrate on; name a test set with --dataset and --dataset_dir")
    rest = iter(feeds)
    reader: Any = SimpleNamespace(get_next=lambda: next(rest, None))
    prepared, done = path.with_suffix(".prepared.onnx"), path.with_suffix(".int8.onnx")
    try:
        with quiet():
            from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
            from onnxruntime.quantization.shape_inference import quant_pre_process

            quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
            # Weights keep 7 bits: a processor without VNNI sums two products of 8 bits in 16, which overflows.
            quantize_static(str(prepared), str(done), reader, quant_format=QuantFormat.QDQ, per_channel=True,
                            reduce_range=True, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
                            op_types_to_quantize=QUANTIZED, nodes_to_exclude=kept_in_float(prepared),
                            extra_options={"CalibMovingAverage": True})
        done.replace(path)
    except (AssertionError, ValueError, RuntimeError) as error:
        raise UserError(f"{path.name}: ONNX Runtime's tool cannot quantize it ({error}); does the network give finite "
                        f"numbers on these crops?") from error
    except ImportError as error:
        raise UserError("int8 needs ONNX Runtime's quantisation tool; pip install -e '.[export]'") from error
    finally:
        prepared.unlink(missing_ok=True)
        done.unlink(missing_ok=True)


def kept_in_float(path: Path) -> list[str]:
    """Return the names of the nodes that stay float32: those whose rounding would cost boxes.

    They are the products of two activations (correlation, attention); the last weighted node before each of the
    search graph's outputs, what lies between it and the output (exp makes a rounding a factor), and all that is
    computed from there on (the object-aware branch, whose offsets are pixels).
    """
    import onnx

    graph = onnx.load(path).graph
    constants = {weight.name for weight in graph.initializer}
    maker = {name: node for node in graph.node for name in node.output}
    kept = {node.name for node in graph.node if node.op_type in _WEIGHTED and node.input[1] not in constants}
    if any(output.name == "ltrb" for output in graph.output):
        edge = [maker[output.name] for output in graph.output]
        while edge:
            node = edge.pop()
            kept.add(node.name)
            if node.op_type not in _WEIGHTED:
                edge += [maker[name] for name in node.input if name in maker and maker[name].name not in kept]
        box_side = _between(graph, "ltrb", maker)
        for node in graph.node:  # in order of computation, so one pass reaches all that follows
            if box_side.intersection(node.input):
                kept.add(node.name)
                box_side.update(node.output)
    return sorted(kept)


def _between(graph: Any, output: str, maker: Mapping[str, Any]) -> set[str]:
    """Return the tensors from the last weighted node to `output`, that node's own result included."""
    found, edge = set(), [output]
    while edge:
        name = edge.pop()
        found.add(name)
        if name in maker and maker[name].op_type not in _WEIGHTED:
            edge += [source for source in maker[name].input if source in maker and source not in found]
    return found
