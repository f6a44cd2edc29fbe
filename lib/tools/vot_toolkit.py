"""The official vot-toolkit: a tracker that it starts and talks to by the TraX protocol, and a workspace with it.

The toolkit runs the line that `workspace` writes into `trackers.ini`; `main` typed by hand waits for a toolkit. Any
number of objects at once (VOTS), given as boxes, polygons or masks; the answers are boxes, each with the tracker's
score as the property `confidence`. Needs the package vot-trax, which the toolkit brings; the toolkit itself may live in
an environment of its own.
"""

from __future__ import annotations

import configparser
import importlib.util
import io
import logging
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from lib.boxes import Boxes, polygon_to_xywh
from lib.checkpoint import find_weights, where_else
from lib.cli import as_argv
from lib.crops import Image
from lib.errors import UserError, did_you_mean, package
from lib.files import MAIN, atomic_write, read_text, read_yaml, write_whole
from lib.images import read_image
from lib.log import RunLog
from lib.options import TrackerOptions, VotTrackerOptions, VotWorkspaceOptions
from lib.testing.opening import is_foreign, open_tracker, resolved
from lib.testing.run import open_with_params, params_for, tracker_name
from lib.tracker import Tracker, TrackState, begin
from lib.tracker.scoring import NonFiniteOutput

INSTALL = "-e '.[vot]' (or vot-trax alone, when the toolkit has an environment of its own)"
TIMEOUT = 300  # seconds the toolkit waits for an answer; the first one waits for the checkpoint to load
DUMMY_FRAMES = 50
_log = logging.getLogger(__name__)


@dataclass(eq=False)
class Objects:
    """The objects that are followed, in the order in which the toolkit gave them."""

    tracker: Tracker
    states: list[TrackState] = field(default_factory=list)

    def start(self, image: Image, boxes: Iterable[Boxes]) -> None:
        """Forget all objects and follow the given ones from here on."""
        self.states = []
        self.add(image, boxes)

    def add(self, image: Image, boxes: Iterable[Boxes]) -> None:
        """Follow further objects, by their boxes (4,) xywh in this image."""
        self.states += [self.tracker.init(image, box) for box in boxes]

    def advance(self, image: Image) -> None:
        """Take every object to the next image."""
        self.states = list(begin(self.tracker, self.states, [image] * len(self.states))())


def serve(server: Any, objects: Objects, *, answer: Callable[[Boxes], Any]) -> int:
    """Return the number of frames answered, the first ones included, once the toolkit says that it is over.

    `server` is a `trax.server.Server`; `answer` makes a region of a box (4,) xywh. Raises UserError for a region or an
    image that is of no use and for a network that returns NaN.
    """
    frames = 0
    while (request := server.wait()).type in ("initialize", "frame"):
        image = read_image(Path(request.image["color"].path()))
        boxes = [box_of(region) for region, _ in request.objects or []]
        try:
            if request.type == "initialize":
                objects.start(image, boxes)
            else:
                objects.advance(image)
                objects.add(image, boxes)
        except NonFiniteOutput as error:
            raise UserError(f"{request.image['color'].path()}: {error}; the checkpoint has diverged, or fp16 is too "
                            "narrow for it (try --amp none)") from error
        server.status([(answer(state.box_xywh), {"confidence": float(getattr(state, "presence", state.score))})
                       for state in objects.states])
        frames += 1
    return frames


def box_of(region: Any) -> Boxes:
    """Return the box (4,) xywh, origin 0, that stands for a TraX region.

    A rectangle is one; a polygon's is the one of `polygon_to_xywh`, as in VOT2015-2019; a mask's holds its pixels.
    Raises UserError for a region without any extent (a special code, an empty mask).
    """
    if region.type == "rectangle":
        return np.array(region.bounds(), np.float64)
    if region.type == "polygon":
        return polygon_to_xywh(np.array(list(region), np.float64).reshape(-1))
    if region.type == "mask":
        rows, columns = np.nonzero(region.array())
        if len(rows):
            left, top = region.offset()
            low_xy = np.array([columns.min() + left, rows.min() + top], np.float64)
            high_xy = np.array([columns.max() + left, rows.max() + top], np.float64)
            return np.concatenate([low_xy, high_xy - low_xy + 1])
    raise UserError(f"the toolkit gave {region} to start on; expected a rectangle, a polygon or a mask with pixels")


def main(options: VotTrackerOptions) -> int:
    """Serve the toolkit that started this process; return 0. Raises UserError."""
    trax = package("trax", needed_by="a tracker of the vot-toolkit", install=INSTALL)
    options = resolved(options)
    name = tracker_name(options.arch, None, epoch_test=False)
    # The handshake comes first: the toolkit waits for it, while a checkpoint may take its time.
    with RunLog(main=True), trax.Server(
        ["rectangle", "polygon", "mask"], ["path"], tracker_name=name, tracker_family="OceanKit",
        multiobject=True,
    ) as server:
        tracker, params, source = open_with_params(options, options.resume, options.dataset)
        _log.info("tracker %s%s", source, "" if is_foreign(options.arch) else f": {params}")
        frames = serve(server, Objects(tracker), answer=lambda box: trax.Rectangle.create(*map(float, box)))
        _log.info("%d frames answered", frames)
    return 0


def workspace(options: VotWorkspaceOptions) -> int:
    """Write a workspace, as `vot initialize` does, and print what to do with it; return 0. Raises UserError.

    Called again for the same folder it adds another tracker, or replaces the one of the same name.
    """
    with RunLog(main=True):
        options = _checked(options)
        shared = {key.name: getattr(options, key.name) for key in fields(TrackerOptions)}
        tracker = VotTrackerOptions(**shared, dataset=dataset_of(options.stack))
        write_config(options.folder, stack=options.stack, sequences=_sequences(options))
        register(options.folder / "trackers.ini", name=options.name, label=options.label or options.name,
                 command=shlex.join([sys.executable, str(MAIN), "vot", *as_argv(tracker)]))  # from any folder
        for name in ("sequences", "results"):
            (options.folder / name).mkdir(exist_ok=True)
        _log.info("%s: config.yaml, and %s in trackers.ini", options.folder, options.name)
    where = shlex.quote(str(options.folder))
    print(f"vot --registry {where} test {options.name}\nvot evaluate --workspace {where} {options.name}\n"
          f"vot analysis --workspace {where} {options.name}\nvot pack --workspace {where} {options.name}")
    return 0


def _checked(options: VotWorkspaceOptions) -> VotWorkspaceOptions:
    """Return the options with full paths; UserError for what the toolkit would refuse later, or be silent about."""
    arch = resolved(options).arch
    name = options.name or tracker_name(arch, None, epoch_test=False)
    if not re.fullmatch(r"[a-zA-Z0-9_-]+", name):
        raise UserError(f"--name {name}: the toolkit takes letters, digits, - and _ only")
    if options.sequences is not None and options.dummy:
        raise UserError("--sequences and --dummy both say which videos to use; leave one out")
    weights = options.resume and find_weights(options.resume)
    if weights is not None and not weights.exists():
        raise UserError(f"--resume {weights}: {where_else(weights)}")
    params, _ = params_for(options.params, dataset_of(options.stack), arch=arch, checkpoint=weights,
                           online=options.online)
    if is_foreign(arch):
        open_tracker(arch, weights, params)
    tracker = re.sub(r".*\.py(?=:)", lambda file: str(Path(file[0]).resolve()), options.tracker)
    if importlib.util.find_spec("trax") is None:
        _log.warning("%s lacks vot-trax, which the tracker needs to start: pip install %s", sys.executable, INSTALL)
    return replace(options, name=name, tracker=tracker, resume=weights and weights.resolve(),
                   stack=_checked_stack(options.stack), params=options.params and options.params.resolve())


def _checked_stack(stack: str) -> str:
    """Return the name of one of the toolkit's stacks, or the full path of a YAML file."""
    if stack.endswith((".yaml", ".yml")):
        if not Path(stack).is_file():
            raise UserError(f"--stack {stack}: no such file; expected a stack of experiments")
        return str(Path(stack).resolve())
    if importlib.util.find_spec("vot") is None:
        _log.warning("the toolkit is not installed here, so the stack's name is not checked: pip install %s", INSTALL)
        return stack
    from vot.stack import list_integrated_stacks

    known = list_integrated_stacks()
    if stack not in known:
        raise UserError(f"--stack {stack}: no stack of the toolkit{did_you_mean(stack, known)}")
    return stack


def dataset_of(stack: str) -> str:
    """Return the benchmark whose hyper-parameters count for a stack: VOT2018 for vot2018/shortterm."""
    return Path(stack).parts[0].upper() if not stack.endswith((".yaml", ".yml")) else Path(stack).stem.upper()


def _sequences(options: VotWorkspaceOptions) -> Path | None:
    """Return the folder of videos if it is not the workspace's own, which the toolkit fills by itself, or --dummy does.
    """
    if options.sequences is not None:
        if not (options.sequences / "list.txt").is_file():
            raise UserError(f"--sequences {options.sequences}: no list.txt, in which the toolkit looks for the names "
                            "of the videos; expected an official VOT folder")
        return Path(options.sequences.resolve())
    if options.dummy:
        toolkit = package("vot.dataset.dummy", needed_by="--dummy", install=INSTALL)
        rendered = Path(toolkit.generate_dummy(DUMMY_FRAMES).frame(0).filename()).parents[1]
        shutil.copytree(rendered, options.folder / "sequences" / "dummy", dirs_exist_ok=True)
        write_whole(options.folder / "sequences" / "list.txt", "dummy\n")
    return None


def write_config(folder: Path, *, stack: str, sequences: Path | None) -> None:
    """Write `config.yaml`; UserError when the folder is a workspace of another stack, whose results it may hold."""
    path = folder / "config.yaml"
    config: dict[str, Any] = {"stack": stack, "registry": ["./trackers.ini"]}
    if sequences is not None:
        config["sequences"] = str(sequences)
    if path.is_file():
        there = read_yaml(path)
        if not isinstance(there, dict) or there.get("stack") != stack:
            raise UserError(f"{path}: a workspace of another stack; choose another folder, or --stack "
                            f"{there.get('stack') if isinstance(there, dict) else 'as it was'}")
        config = there | config
    with atomic_write(path) as file:
        yaml.safe_dump(config, file)


def register(path: Path, *, name: str, label: str, command: str) -> None:
    """Write the tracker into `trackers.ini`; others that stand there stay."""
    registry = configparser.ConfigParser()
    if path.is_file():
        try:
            registry.read_string(read_text(path), source=str(path))
        except configparser.Error as error:
            raise UserError(f"{path}: not an INI file ({error}); mend it or remove it") from error
    # The reader on the other side takes % for the start of a reference.
    registry[name] = {key: value.replace("%", "%%") for key, value in
                      {"label": label, "protocol": "trax", "command": command, "timeout": str(TIMEOUT)}.items()}
    text = io.StringIO()
    registry.write(text)
    write_whole(path, text.getvalue())
