"""From a model to its two ONNX graphs, in float32; `narrow` makes the other number formats of them."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lib.crops import TEMPLATE_SIZE
from lib.errors import UserError, one_line
from lib.models.ocean import Ocean_
from lib.tracker.onnx import CROP, SEARCH, Layout, build_features, feature_names, features_layout, flat_features

DEFORM_OPSET = 19  # the first with DeformConv, which the object-aware branch is made of
EXAMPLE_SIDE = 271  # px of the search crop that the graph is traced with; its size stays free


class _Template(nn.Module):
    """template_crop (1, 3, 127, 127) to the template features, an output each."""

    def __init__(self, model: Ocean_) -> None:
        super().__init__()
        self.model = model

    def forward(self, z: Tensor) -> tuple[Tensor, ...]:
        return tuple(flat_features(self.model.template(z)))


class _Search(nn.Module):
    """search_crop (1, 3, H, H) and the template features to (cls, ltrb) or, with the branch, (cls, ltrb, aligned)."""

    def __init__(self, model: Ocean_, layout: Layout) -> None:
        super().__init__()
        self.model, self.layout = model, layout

    def forward(self, x: Tensor, template: list[Tensor]) -> tuple[Tensor, ...]:
        output = self.model.track(x, build_features(template, self.layout))
        return tuple(part for part in (output.cls, output.ltrb, output.cls_aligned) if part is not None)


def write_graphs(model: Ocean_, folder: Path, *, opset: int) -> Layout:
    """Write `template.onnx` and `search.onnx` of a model in eval mode and return how the features are laid out.

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
    parts = flat_features(template)
    names = feature_names(layout)
    outputs = ["cls", "ltrb", *(["cls_aligned"] if model.align_head is not None else [])]
    free = {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    _export(_Template(model), (z,), folder / "template.onnx", opset=opset, inputs=[CROP], outputs=names)
    _export(_Search(model, layout), (x, parts), folder / "search.onnx", opset=opset, inputs=[SEARCH, *names],
            outputs=outputs, dynamic=(free, [None] * len(parts)))
    return layout


def _export(module: nn.Module, example: tuple[Any, ...], path: Path, *, opset: int, inputs: list[str],
            outputs: list[str], dynamic: Any = None) -> None:
    try:
        with _quiet():
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
def _quiet() -> Iterator[None]:
    """Keep the exporter's chatter about its own steps away from the user; errors still raise."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
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
