"""Exported graphs in narrower numbers: float16, weights stored as bfloat16, or 8 bits after a calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from lib.errors import UserError
from lib.tools.export_graph import Feed, quiet

MIN_STORED = 1024  # numbers; a smaller tensor is not worth a conversion
# Operators with 8-bit kernels worth having; a Clip (ReLU6) among them lets the convolution before it be quantized by
# the range that is left after it.
QUANTIZED = ["Conv", "Gemm", "MatMul", "Add", "Relu", "Clip", "MaxPool"]
_WEIGHTED = ("Conv", "Gemm", "MatMul")


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
