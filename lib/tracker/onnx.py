"""Exported models through ONNX Runtime in the place of PyTorch ones: `OceanTracker(load_onnx(folder), params)`.

A folder holds `template.onnx` (once per sequence), `search.onnx` (each frame, any search size) and `export.json`, which
says what they were made from. Written by `lib.tools.export`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lib.errors import UserError, package
from lib.files import read_json, sha256_of
from lib.models.ocean import Ocean_, OceanOutput, TemplateFeatures

RECORD = "export.json"
Layout = Mapping[str, int | None]
ALONE = -1  # in a layout: the field is a tensor, not a tuple of them
GRAPHS = ("template", "search")
CROP, SEARCH = "template_crop", "search_crop"  # names of the graphs' inputs


@dataclass(frozen=True)
class ExportRecord:
    """What an exported folder was made from, and how near it came: the content of export.json."""

    checkpoint: str
    checkpoint_sha256: str
    model: Mapping[str, Any]  # the keywords of build_model
    precision: str  # fp32, fp16, bf16 or int8
    opset: int
    features: Mapping[str, int | None]  # what TemplateFeatures holds: see `features_layout`
    graphs: Mapping[str, str]  # sha256 of template.onnx and search.onnx
    made_by: str  # versions
    differences: Mapping[str, float]  # largest, from PyTorch, on real crops


def record_file(path: str | Path) -> Path:
    """Return the export.json of an exported folder, given as the folder, that file or one of the graphs."""
    path = Path(path)
    file = path / RECORD if path.is_dir() else path.with_name(RECORD)
    if not file.is_file():
        raise UserError(f"{path}: not an exported model (no {RECORD}); tracking/export.py CKPT --out DIR makes one")
    return file


def read_record(path: str | Path) -> ExportRecord:
    """Return what an exported folder says of itself; UserError when a graph is missing or is not the one exported."""
    file = record_file(path)
    data = read_json(file)
    names = {field.name for field in fields(ExportRecord)}
    if not isinstance(data, dict) or set(data) != names or not all(isinstance(data[key], dict) for key in (
            "model", "features", "graphs", "differences")):
        raise UserError(f"{file}: not the record of an export; export the model again")
    for graph in GRAPHS:
        if sha256_of(file.with_name(f"{graph}.onnx")) != data["graphs"].get(graph):
            raise UserError(f"{file.with_name(graph)}.onnx: not the graph that was checked at export; export again")
    return ExportRecord(**data)


def default_device() -> str:
    """Return "cuda" where ONNX Runtime can use a GPU, else "cpu"."""
    return "cuda" if "CUDAExecutionProvider" in _runtime().get_available_providers() else "cpu"


class OnnxModel(Ocean_):
    """An exported model in the place of a PyTorch one: float32 tensors on the CPU in and out, crops one by one."""

    def __init__(self, folder: Path, record: ExportRecord, *, providers: list[Any], align: bool) -> None:
        super().__init__()
        self.record = record
        self.spec = {**record.model, "align": align}
        self.align = align
        self.load_report = f"{folder}: {record.precision} of {record.checkpoint}"
        self._template, self._search = (_session(folder / f"{graph}.onnx", providers) for graph in GRAPHS)

    def template(self, z: Tensor) -> TemplateFeatures:
        """Return what template crops (B, 3, 127, 127), float32 BGR 0..255, contribute to every frame."""
        rows = [self._template.run(None, {CROP: row[None]}) for row in _arrays(z)]
        stacked = [torch.from_numpy(np.concatenate(parts)) for parts in zip(*rows, strict=True)]
        return build_features(stacked, self.record.features)

    def track(self, x: Tensor, template: TemplateFeatures) -> OceanOutput:
        """Return the predictions for search crops (B, 3, H, H), float32 BGR 0..255, with one template row each."""
        inputs = [entry.name for entry in self._search.get_inputs()]  # a graph has only those that it uses
        known = {name: _arrays(part) for name, part in named_features(template).items() if name in inputs}
        rows = []
        for index, crop in enumerate(_arrays(x)):
            feed = {name: array[index:index + 1] for name, array in known.items()}
            rows.append(self._search.run(None, {SEARCH: crop[None], **feed}))
        cls, ltrb, *aligned = (torch.from_numpy(np.concatenate(parts)) for parts in zip(*rows, strict=True))
        return OceanOutput(ltrb, cls, aligned[0] if self.align else None)


def load_onnx(path: str | Path, *, align: bool | None = None, device: str = "cpu", tensorrt: bool = False) -> OnnxModel:
    """Return the exported model in a folder, to be handed to `OceanTracker` as any other.

    device: where ONNX Runtime computes, "cpu", "cuda" or "cuda:N"; with `tensorrt` by TensorRT's engines, kept in the
    folder. align: True requires the object-aware branch, False leaves its score out. It takes as many threads as torch,
    so that OMP_NUM_THREADS counts. Raises UserError, naming what to install, where the runtime here cannot.
    """
    folder = record_file(path).parent
    record = read_record(folder)
    has_branch = bool(record.model.get("align"))
    if align and not has_branch:
        raise UserError(f"{folder}: exported without the object-aware branch, so --align True cannot be; use --align "
                        f"False, or export a checkpoint trained with ALIGN: True")
    there = _runtime().get_available_providers()
    number = {"device_id": int(device.partition(":")[2] or 0)}
    wanted: list[tuple[str, dict[str, Any]]] = []
    if tensorrt:
        wanted.append(("TensorrtExecutionProvider", {
            **number, "trt_engine_cache_enable": True, "trt_engine_cache_path": str(folder / "tensorrt"),
            "trt_fp16_enable": True}))
    if device.startswith("cuda"):
        wanted.append(("CUDAExecutionProvider", number))
    for name, _ in wanted:
        if name not in there:
            raise UserError(f"ONNX Runtime here has no {name} (it has {', '.join(there)}); pip install onnxruntime-gpu"
                            f"{' and TensorRT' if tensorrt else ''}, or use --device cpu with --arch OceanONNX")
    return OnnxModel(folder, record, providers=[*wanted, "CPUExecutionProvider"],
                     align=has_branch and align is not False)


def named_features(template: TemplateFeatures) -> dict[str, Tensor]:
    """Return all tensors of template features, in order, by their names in the graphs: zf, cls_0, cls_1 ..."""
    named: dict[str, Tensor] = {}
    for name, value in zip(template._fields, template, strict=True):
        if isinstance(value, Tensor):
            named[name] = value
        else:
            named |= {f"{name}_{index}": tensor for index, tensor in enumerate(value or ())}
    return named


def features_layout(template: TemplateFeatures) -> Layout:
    """Return for each field, in order, how many tensors it is a tuple of; ALONE for a tensor, None for nothing."""
    values: dict[str, Any] = template._asdict()
    return {name: None if value is None else ALONE if isinstance(value, Tensor) else len(value)
            for name, value in values.items()}


def build_features(tensors: Sequence[Tensor], layout: Layout) -> TemplateFeatures:
    """Return the template features of their tensors in the order of `named_features`."""
    rest = iter(tensors)
    values: dict[str, Any] = {}
    for name, count in layout.items():
        tensor_or_tuple = next(rest) if count == ALONE else tuple(next(rest) for _ in range(count or 0))
        values[name] = None if count is None else tensor_or_tuple
    return TemplateFeatures(**values)


def _arrays(tensor: Tensor) -> NDArray[np.float32]:
    return np.ascontiguousarray(tensor.detach().float().cpu().numpy())


def _session(path: Path, providers: list[Any]) -> Any:
    """Return ONNX Runtime's session of a graph; UserError when this version of it cannot run the graph."""
    runtime = _runtime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()  # left alone it takes all cores
    options.log_severity_level = 3  # errors only: its warnings are about the placement of single nodes
    try:
        return runtime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # ONNX Runtime's own exceptions share no other base
        raise UserError(f"{path}: ONNX Runtime {runtime.__version__} cannot run it ({error}); a newer one may, or "
                        f"export with --align False, another --precision or --opset") from error


def _runtime() -> Any:
    return package("onnxruntime", needed_by="an exported model", install="-e '.[export]' (on a GPU onnxruntime-gpu)")
