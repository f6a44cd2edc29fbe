"""A workspace of the official vot-toolkit with our tracker in its `trackers.ini`, made by one command.

    python tracking/vot_workspace.py WORKSPACE --stack vot2022/shorttermbox --resume snapshot/checkpoint_e20.pth
    vot evaluate --workspace WORKSPACE Ocean

Files are written as `vot initialize` writes them; the toolkit itself may live in an environment of its own. Called
again for the same folder it adds another tracker, or replaces the one of the same name.
"""

from __future__ import annotations

import argparse
import configparser
import importlib.util
import io
import logging
import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from lib.checkpoint import find_weights
from lib.errors import UserError, did_you_mean
from lib.files import atomic_write, read_text, read_yaml
from lib.log import RunLog
from lib.testing.opening import check_arch
from lib.testing.run import Parser, params_for
from lib.tools.vot_toolkit import INSTALL, add_tracker_flags

SCRIPT = Path(__file__).resolve().parents[2] / "tracking" / "vot_ocean.py"
TIMEOUT = 300  # seconds the toolkit waits for an answer; the first one waits for the checkpoint to load
DUMMY_FRAMES = 50
_log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the workspace and print what to do with it; return 0. Raises UserError."""
    options = _parse(argv)
    with RunLog(main=True):
        _check(options)
        sequences = _sequences(options)
        write_config(options.folder, stack=options.stack, sequences=sequences)
        register(options.folder / "trackers.ini", name=options.name, label=options.label or options.name,
                 command=command_line(options))
        for name in ("sequences", "results"):
            (options.folder / name).mkdir(exist_ok=True)
        _log.info("%s: config.yaml, and %s in trackers.ini", options.folder, options.name)
    where = shlex.quote(str(options.folder))
    print(f"vot --registry {where} test {options.name}\nvot evaluate --workspace {where} {options.name}\n"
          f"vot analysis --workspace {where} {options.name}\nvot pack --workspace {where} {options.name}")
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser("vot_workspace.py", description="Write a workspace of the official vot-toolkit.",
                    allow_abbrev=False)
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder of the workspace")
    parser.add_argument("--stack", required=True, help="experiments: vot2022/shorttermbox, tests/basic, or a YAML file")
    add_tracker_flags(parser)
    parser.add_argument("--name", default="Ocean", help="the tracker's identifier in the toolkit")
    parser.add_argument("--label", default="", help="its name in reports; default --name")
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--sequences", type=Path, help="folder of videos with list.txt; default: the toolkit downloads")
    group.add_argument("--dummy", action="store_true", help="the toolkit's rendered test video instead of a download")
    return parser.parse_args(argv)


def _check(options: argparse.Namespace) -> None:
    """Raise UserError for what the toolkit would refuse later, or for ever be silent about."""
    if not re.fullmatch(r"[a-zA-Z0-9_-]+", options.name):
        raise UserError(f"--name {options.name}: the toolkit takes letters, digits, - and _ only")
    options.resume = find_weights(options.resume)
    if not options.resume.exists():
        raise UserError(f"--resume {options.resume}: no such file; expected a checkpoint")
    check_arch(options.arch)
    params_for(options.params, dataset_of(options.stack), arch=options.arch, checkpoint=options.resume)
    if options.stack.endswith((".yaml", ".yml")):
        if not Path(options.stack).is_file():
            raise UserError(f"--stack {options.stack}: no such file; expected a stack of experiments")
        options.stack = str(Path(options.stack).resolve())
    elif importlib.util.find_spec("vot") is None:
        _log.warning("the toolkit is not installed here, so the stack's name is not checked: %s", INSTALL)
    else:
        from vot.stack import list_integrated_stacks

        known = list_integrated_stacks()
        if options.stack not in known:
            raise UserError(f"--stack {options.stack}: no stack of the toolkit{did_you_mean(options.stack, known)}")
    if importlib.util.find_spec("trax") is None:
        _log.warning("%s lacks vot-trax, without which the tracker cannot be started: %s", sys.executable, INSTALL)


def dataset_of(stack: str) -> str:
    """Return the benchmark whose hyper-parameters count for a stack: VOT2018 for vot2018/shortterm."""
    return Path(stack).parts[0].upper() if not stack.endswith((".yaml", ".yml")) else Path(stack).stem.upper()


def command_line(options: argparse.Namespace) -> str:
    """Return the line that starts the tracker from any folder, with this Python."""
    words = [sys.executable, str(SCRIPT), "--arch", options.arch, "--resume", str(options.resume.resolve()),
             "--dataset", dataset_of(options.stack)]
    if options.params is not None:
        words += ["--params", str(options.params.resolve())]
    if options.align is not None:
        words += ["--align", str(options.align)]
    words += ["--device", options.device] if options.device else []
    words += ["--amp", options.amp] if options.amp != "none" else []
    return shlex.join(words)


def _sequences(options: argparse.Namespace) -> Path | None:
    """Return the folder of videos if it is not the workspace's own, which the toolkit fills by itself."""
    if options.sequences is not None:
        if not (options.sequences / "list.txt").is_file():
            raise UserError(f"--sequences {options.sequences}: no list.txt, in which the toolkit looks for the names "
                            "of the videos; expected an official VOT folder")
        return Path(options.sequences.resolve())
    if options.dummy:
        _write_dummy(options.folder / "sequences")
    return None


def _write_dummy(folder: Path) -> None:
    """Put the toolkit's own test video into `folder`; UserError when the toolkit is not there to render it."""
    try:
        from vot.dataset.dummy import generate_dummy
    except ImportError as error:
        raise UserError(f"--dummy: the toolkit is not installed here ({error}): {INSTALL}") from error
    rendered = Path(generate_dummy(DUMMY_FRAMES).frame(0).filename()).parents[1]
    shutil.copytree(rendered, folder / "dummy", dirs_exist_ok=True)
    with atomic_write(folder / "list.txt") as file:
        file.write("dummy\n")


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
    with atomic_write(path) as file:
        file.write(text.getvalue())
