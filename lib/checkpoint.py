"""Checkpoints: saved whole or not at all, read without running anything in them, loaded strictly and with a report.

Every form in the wild is read: `{"epoch", "arch", "state_dict", "optimizer"}`, a bare state dict, names with the
prefixes `module.` and `feature_extractor.`, SOTS' names of Ocean's parts (`backbone.`, `neck.`, `head.`). What is saved
here adds `model` (the keywords of `build_model`) and what a resume needs; the reference code reads it too.
"""

from __future__ import annotations

import errno
import io
import pickle
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lib.errors import UserError, did_you_mean, listed, package
from lib.fetch import WEIGHTS_ROOT, fetched, known_names
from lib.files import write_whole
from lib.models import pretrained
from lib.models.models import Ocean, build_model
from lib.models.timm_trunk import TimmTrunk

PREFIXES = ("module.", "_orig_mod.", "feature_extractor.")
_SOTS = {"backbone.": "features.features.", "head.": "connect_model."}  # what its Ocean calls ours
ALIGN_PREFIX = "align_head."
ONLINE_PREFIX, LAYERONLINE = "classifier.", "features.features.layeronline."  # the two parts of the online branch
PRESENCE_PREFIX = "presence."
EXPORTED_PARAMS = "tracker.yaml"
_COUNTER = "num_batches_tracked"  # of a BatchNorm: no weight, only old checkpoints and ours for use lack it
# What may be added to a trained Ocean.
NEW_PARTS = (ALIGN_PREFIX, ONLINE_PREFIX, PRESENCE_PREFIX, "features_mhsa.", "features_mhsa_z.")
# What makes plain numpy numbers, as numpy 1 and 2 call it: the reference's optimizer keeps its rates as np.float64.
_SCALAR = np.float64(0).__reduce__()[0]
_NUMBERS: list[Any] = [*((_SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")), np.dtype,
                       *(type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64))]


@dataclass(frozen=True)
class LoadReport:
    """What a load did: `str()` is one line for the log."""

    source: str
    loaded: int  # tensors copied
    missing: tuple[str, ...] = ()  # in the model, not in the file, harmless: BatchNorm counters, new parts
    skipped: tuple[str, ...] = ()  # in the file, not used
    prefixes: tuple[str, ...] = ()  # stripped from the names
    copied: str = ""  # where the tensors of layeronline, which the file lacks, are from

    def __str__(self) -> str:
        parts = [f"{self.source}: {self.loaded} tensors loaded"]
        if self.prefixes:
            parts.append(f"prefix {' and '.join(self.prefixes)} removed")
        if new := [name for name in self.missing if not name.endswith(_COUNTER)]:
            parts.append(f"not in the file: {listed(new)}")
        if self.skipped:
            parts.append(f"not used: {listed(self.skipped)}")
        if self.copied:
            parts.append(f"layeronline, which the file lacks, filled from {self.copied}")
        return "; ".join(parts)


def checkpoint_name(epoch: int, *, step: int | None = None) -> str:
    """Return the file's name: `checkpoint_e{N}.pth` after epoch N (from 1), `checkpoint_e{N}_s{step}.pth` within it."""
    return f"checkpoint_e{epoch}.pth" if step is None else f"checkpoint_e{epoch}_s{step}.pth"


def save_checkpoint(path: str | Path, checkpoint: Mapping[str, Any]) -> None:
    """Write `checkpoint` to `path`, whole or not at all; raise UserError when it cannot be written (full disk)."""
    buffer = io.BytesIO()  # torch reports a failed write as an error of its archive; the system's own says why
    torch.save(dict(checkpoint), buffer)
    write_whole(path, buffer.getbuffer())


def find_weights(path: str | Path) -> Path:
    """Return `path`, or the weights of that name: those that come along (experiments/weights), else `lib.fetch`'s."""
    shipped = WEIGHTS_ROOT / f"{path}.pth"
    if Path(path).exists():
        return Path(path)
    return shipped if shipped.is_file() else fetched(str(path)) or Path(path)


def params_beside(path: str | Path) -> Path | None:
    """Return the YAML of tracking hyper-parameters that lies beside weights, or in an exported folder; else None."""
    weights = find_weights(path)
    beside = weights / EXPORTED_PARAMS if weights.is_dir() else weights.with_suffix(".yaml")
    return beside if beside.is_file() else None


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Return the checkpoint at `path` (or of that name, see `find_weights`) as a dict with at least "state_dict".

    The tensors are on the CPU. Nothing in the file is executed (`weights_only=True`). Raises UserError for a file that
    is missing, truncated, or holds anything but weights and plain values.
    """
    path = find_weights(path)
    if not path.is_file():
        raise UserError(f"{path}: {where_else(path)}")
    if path.suffix == ".safetensors":
        return {"state_dict": _read_safetensors(path)}
    try:
        with torch.serialization.safe_globals(_NUMBERS), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of old pickle protocols: read or refused all the same
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        if error.errno == errno.EINVAL:  # a seek to before the start: the archive's end is missing
            raise _unreadable(path) from error
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except pickle.UnpicklingError as error:
        refused = re.search(r"(?:GLOBAL|global|callable) ([\w.]+\.[\w.]+)", str(error))
        what = f"holds something that is not weights ({refused[1]})" if refused else "is damaged or holds no weights"
        raise UserError(f"{path}: {what}; nothing in it was executed; expected tensors and plain values") from error
    except Exception as error:  # a malformed file makes the reader fail in nearly any way
        raise _unreadable(path) from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__}; expected a dict with 'state_dict', or a state dict")
    if "state_dict" not in content:  # `model_state_dict` is what classifiers of other projects call it
        content = {"state_dict": content.get("model_state_dict", content)}
    return content


def where_else(path: str | Path) -> str:
    """Return what is wrong with a path of weights at which there is no file, and what is nearest to it."""
    path = Path(path)
    if path.is_dir():
        return f"a folder; expected a file in it, such as {path / checkpoint_name(20)}"
    if path.parent == Path() and not path.suffix:
        return f"neither a checkpoint file nor weights known by name{did_you_mean(str(path), known_names())}"
    there = [other.name for other in path.parent.glob("*.pth")]
    return f"no such checkpoint file{did_you_mean(path.name, there) if there else f'; no .pth file in {path.parent}/'}"


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    load_file = package("safetensors.torch", needed_by=f"{path}: reading it").load_file
    try:
        return dict(load_file(path))
    except Exception as error:  # a malformed file makes the reader fail in several ways
        raise _unreadable(path) from error


def _unreadable(path: Path) -> UserError:
    return UserError(f"{path}: truncated or not a checkpoint ({path.stat().st_size} bytes); "
                     f"copy it again or take another epoch's")


def load_weights(model: nn.Module, state_dict: Mapping[str, Any], *, source: str,
                 ignore: Sequence[str] = (), optional: Sequence[str] = ()) -> LoadReport:
    """Copy `state_dict` into `model` and return the report; strict, except for BatchNorm's counters.

    source: the file's name, for messages. ignore: prefixes of names that may be in the file and are not wanted.
    optional: prefixes of names that the file may lack. Where it lacks all of `layeronline`, what that copies fills it.
    Raises UserError, naming the first few and counting all, for missing, unexpected or mismatched names, and for
    values that are not finite; the model is then unchanged.
    """
    weights, prefixes = _strip(state_dict, source=source)
    own = model.state_dict()
    source_of = getattr(getattr(model, "features", None), "online_from", "")
    copies = {} if any(name.startswith(LAYERONLINE) for name in weights) else {
        name: weights[twin] for name in own if name.startswith(LAYERONLINE)
        and (twin := name.replace("layeronline", source_of)) in weights}
    weights |= copies
    skipped = tuple(name for name in weights if name not in own and name.startswith(tuple(ignore)))
    absent = [name for name in own if name not in weights]
    missing = tuple(name for name in absent if name.endswith(_COUNTER) or name.startswith(tuple(optional)))
    problems = {
        "missing": [name for name in absent if name not in missing],
        "unexpected": [name for name in weights if name not in own and name not in skipped],
        "of another shape": [f"{name} {_shape(tensor)} instead of {_shape(own[name])}"
                             for name, tensor in weights.items() if name in own and tensor.shape != own[name].shape],
    }
    if any(problems.values()):
        text = "; ".join(f"{what}: {listed(names)}" for what, names in problems.items() if names)
        fit = sum(name in weights and weights[name].shape == tensor.shape for name, tensor in own.items())
        raise UserError(f"{source}: weights of another architecture ({fit} of {len(own)} tensors fit); {text}")
    usable = {name: tensor for name, tensor in weights.items() if name in own}
    # A model with such values predicts nonsense without a word.
    if broken := [name for name, tensor in usable.items() if not bool(torch.isfinite(tensor).all())]:
        raise UserError(f"{source}: values that are not finite in {listed(broken)}; the training that made it "
                        f"diverged, take an earlier checkpoint")
    model.load_state_dict(usable, strict=False)
    return LoadReport(source, len(usable) - len(copies), missing, skipped, prefixes,
                      f"{source_of} ({len(copies)} tensors)" if copies else "")


def load_model(path: str | Path, *, align: bool | None = None, online: bool | None = None,
               presence: bool = True) -> Ocean:
    """Return the model of a checkpoint, or of the weights of that name, in eval mode on the CPU.

    The architecture is what the checkpoint says (`model`); one of the reference code is Ocean on ResNet-50, with the
    object-aware and the online branch where their weights are there. align, online: True requires the branch, False
    leaves it out, None takes what the file has. presence: False leaves the presence branch out, where there is one.
    `model.load_report` says what was skipped or missing, `model.params_file` names the tracking hyper-parameters that
    belong to the weights, None if they have none.
    """
    checkpoint = read_checkpoint(path)
    weights, _ = _strip(checkpoint["state_dict"], source=str(path))
    has_branch = any(name.startswith(ALIGN_PREFIX) for name in weights)
    if align and not has_branch:
        raise UserError(f"{path}: trained without the object-aware branch, so --align True cannot be; "
                        f"use --align False or a checkpoint trained with ALIGN: True")
    has_online = any(name.startswith(ONLINE_PREFIX) for name in weights)
    if online and not has_online:
        raise UserError(f"{path}: trained without the online branch (no {ONLINE_PREFIX}*), so --online True cannot be; "
                        f"use --online False or a checkpoint with it")
    spec = checkpoint.get("model") or {}
    if not isinstance(spec, dict) or not all(isinstance(key, str) for key in spec):
        raise UserError(f"{path}: its 'model' is {spec!r}; expected the keywords of a model")
    options = {**spec, "align": has_branch if align is None else align,
               "online": has_online if online is None else online,
               "presence": presence and any(name.startswith(PRESENCE_PREFIX) for name in weights)}
    try:
        model = build_model(**options)
    except (UserError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{path}: {error}") from error
    unwanted = [ALIGN_PREFIX] * (model.align_head is None) + [ONLINE_PREFIX, LAYERONLINE] * (model.classifier is None)
    unwanted += [PRESENCE_PREFIX] * (model.presence is None)
    model.load_report = load_weights(model, checkpoint["state_dict"], source=str(path), ignore=unwanted)
    model.params_file = params_beside(path)
    return model.eval()


def import_pretrained(model: Ocean, state_dict: Mapping[str, Any], *, source: str,
                      pixels: pretrained.Pixels | None = None) -> LoadReport:
    """Fill the trunk (or the whole model) from pretrained weights in any known form and return the report.

    Known forms, told apart by their names: torchvision's ResNet-50 and VisionTransformer (or nets that call the
    downsample branch `shortcut`); timm's VisionTransformer for a ViT; a net of timm for a trunk of timm; a classifier
    of `tracking/pretrain.py`; a trunk in the names used here, with or without `features.` in front (the reference's
    ImageNet file); a whole Ocean. Parts that are new to the file (neck and head, attention, the object-aware branch)
    stay as they are. Position tables are resampled. pixels: what the net was trained on, folded into the first layer;
    by default ImageNet's for torchvision's forms, BGR 0..255 for the others. UserError where the trunk is not filled.
    """
    weights, prefixes = _strip(state_dict, source=source)
    if any(name.startswith("connect_model.") for name in weights):
        whole = pretrained.split_last_block(weights) if model.features_single is not None else weights
        whole, low_rank = pretrained.beside_low_rank(whole, model.state_dict())
        new = tuple(part for part in NEW_PARTS if not any(name.startswith(part) for name in whole))
        unwanted = {ALIGN_PREFIX: model.align_head is None, pretrained.LAST_BLOCK: model.features_mhsa is not None,
                    ONLINE_PREFIX: model.classifier is None, LAYERONLINE: model.classifier is None,
                    PRESENCE_PREFIX: model.presence is None}
        report = load_weights(model, whole, source=source, ignore=[part for part in unwanted if unwanted[part]],
                              optional=(*new, *low_rank))
        return replace(report, prefixes=prefixes)
    plain = {re.sub(r"^(features\.)+", "", name).replace(".shortcut.", ".downsample."): tensor
             for name, tensor in weights.items()}
    downsample = plain.get("layer3.0.downsample.0.weight")
    if isinstance(model.features, TimmTrunk):
        front, inner = "features.", model.features.import_names(plain, pixels)
    elif "encoder.pos_embedding" in plain or "patch_embed.proj.weight" in plain:
        front, inner = "features.", pretrained.torchvision_vit(plain, pixels)
    elif downsample is not None and downsample.shape[-1] == 1:
        front, inner = "features.features.", pretrained.torchvision_resnet(plain, pixels or pretrained.IMAGENET)
    elif "classifier.weight" in weights:
        front, inner = "", pretrained.fold_stem(weights, pixels or pretrained.OURS)
    else:
        front = "features." if "conv_proj.weight" in plain else "features.features."  # of a ViT, of a ResNet
        inner = pretrained.fold_stem(plain, pixels or pretrained.OURS)
    named = {front + name: tensor for name, tensor in inner.items()}
    return replace(_fill_trunk(model, named, source=source), prefixes=prefixes)


def pixels_of(checkpoint: Mapping[str, Any], *, source: str) -> pretrained.Pixels | None:
    """Return what a file says its net was trained on (`input`: order, mean, std of pixels 0..255), or None."""
    if (record := checkpoint.get("input")) is None:
        return None
    try:
        mean, std = (tuple(map(float, record[key])) for key in ("mean", "std"))
        if record["order"] not in ("RGB", "BGR") or len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise ValueError("order RGB or BGR, three means, three deviations above 0")
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{source}: its 'input' is {record!r:.100}; expected order, mean and std ({error})") from error
    return pretrained.Pixels(record["order"], mean, std)


def _fill_trunk(model: Ocean, weights: Mapping[str, Tensor], *, source: str) -> LoadReport:
    """Fill the trunk, and the block behind it unless that is new, leaving out what it has no use for."""
    parts = nn.ModuleDict({"features": model.features})
    ignore = ["classifier.", "features_single.", "features_mhsa.", *(f"features.{name}" for name in (
        "features.layer4.", "features.fc.", "heads.", "class_token"))]
    if isinstance(model.features, TimmTrunk):
        ignore.append("features.features.")  # what comes after the cut
    tails = {name: getattr(model, name) for name in ("features_single", "features_mhsa", "features_mhsa_z")}
    tails = {name: tail for name, tail in tails.items() if tail is not None}
    if tails and model.new_block:
        ignore.append(pretrained.LAST_BLOCK)
    elif tails:
        parts.update(tails)
        weights = pretrained.split_last_block(weights) if "features_single" in tails else dict(weights)
        if "features_mhsa_z" in tails:
            weights |= {name.replace("mhsa.", "mhsa_z.", 1): tensor for name, tensor in weights.items()
                        if name.startswith("features_mhsa.")}
    own = parts.state_dict()
    weights, low_rank = pretrained.beside_low_rank(pretrained.fit_tables(weights, own), own)
    return load_weights(parts, weights, source=source, ignore=ignore,
                        optional=("features.kinds.", "features.mean", "features.std", *low_rank))


def _strip(state_dict: Any, *, source: str) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return the weights under plain names and the prefixes taken off; raise UserError when they are not weights."""
    if not isinstance(state_dict, Mapping) or not all(isinstance(k, str) for k in state_dict):
        raise UserError(f"{source}: its state_dict is a {type(state_dict).__name__}; expected names and tensors")
    others = [name for name, value in state_dict.items() if not isinstance(value, Tensor)]
    if others or not state_dict:
        raise UserError(f"{source}: not a state dict ({listed(others) or 'it is empty'}); expected names and tensors")
    found: dict[str, None] = {}
    weights = {}
    for name, tensor in state_dict.items():
        while prefix := next((p for p in PREFIXES if name.startswith(p)), ""):
            found[prefix] = None
            name = name.removeprefix(prefix)
        weights[name] = tensor
    if all(any(name.startswith(front) for name in weights) for front in _SOTS):
        weights = {next((ours + name.removeprefix(front) for front, ours in _SOTS.items() if name.startswith(front)),
                        name): tensor for name, tensor in weights.items()}
        found |= dict.fromkeys(_SOTS)
    return weights, tuple(found)


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
