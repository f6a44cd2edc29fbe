"""Every command of the project by name: its options, the function that does it, and two examples.

Nothing heavy is imported here, so that `--help` and a wrong flag are answered at once; what does the work is imported
once the command line is understood.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

from lib import errors, options
from lib.cli import parse_options
from lib.errors import UserError, did_you_mean


class Command(NamedTuple):
    """What a command takes, what does it (module:function, called with the options), and two examples."""

    options: type[Any]
    entry: str
    prog: str
    examples: tuple[str, str]


_TEST = "--dataset OTB2015 --dataset_dir dataset/OTB2015"
COMMANDS = {
    "train": Command(options.TrainOptions, "lib.training.loop:main", "tracking/train_ocean.py", (
        "--cfg experiments/train/Ocean.yaml", "--cfg experiments/train/Ocean.yaml --gpus 0,1,2 --resume auto")),
    "pretrain": Command(options.PretrainOptions, "lib.training.loop:pretrain", "tracking/pretrain.py", (
        "--cfg experiments/pretrain/ResNet_MHSA.yaml", "--cfg experiments/pretrain/ResNet_MHSA.yaml --resume auto")),
    "test": Command(options.TestOptions, "lib.testing.run:main", "tracking/test_ocean.py", (
        "--resume OceanSmall --dataset OTB2015", "--arch Ocean --resume snapshot/checkpoint_e20.pth --align False")),
    "sweep": Command(options.SweepOptions, "lib.testing.sweep:main", "tracking/test_epochs.py", (
        "--start_epoch 5 --end_epoch 20 --gpus 0,1,2", "--checkpoints 'snapshot/A/*.pth' --workers 2")),
    "eval": Command(options.EvalOptions, "lib.eval_toolkit.cli:main", "lib/eval_toolkit/bin/eval.py", (
        f"{_TEST} --tracker_result_dir result/OTB2015 --trackers 'Ocean*'",
        f"{_TEST} --tracker_result_dir result/OTB2015 raw_results/OTB2015 --length fit --html report.html")),
    "track": Command(options.VideoOptions, "lib.tools.run_video:main", "tracking/run_video.py", (
        "clip.mp4", "clip.mp4 --init 120,80,60,40 --resume snapshot/checkpoint_e20.pth")),
    "tune": Command(options.TuneOptions, "lib.tools.tune:main", "tracking/tune.py", (
        "--resume OceanSmall --dataset OTB2015 --workers 2", "--cfg experiments/train/Ocean.yaml --resume CKPT")),
    "export": Command(options.ExportOptions, "lib.tools.export:main", "tracking/export.py", (
        "OceanSmall --out export", "snapshot/checkpoint_e20.pth --out export --precision fp32 int8 --score False")),
    "compare": Command(options.CompareOptions, "lib.tools.compare:main", "tracking/compare.py", (
        "experiments/train/Ocean.yaml experiments/train/Ocean_align.yaml", "OceanSmall=OceanSmall --dataset OTB2015")),
    "margin": Command(options.MarginOptions, "lib.tools.measure:margin", "tracking/margin.py", (
        "--resume OceanSmall --dataset OTB2015", "--resume OceanSmall --dataset held_out --out worst.png")),
    "onekey": Command(options.OnekeyOptions, "lib.tools.onekey:main", "tracking/onekey.py", (
        "--cfg experiments/train/Ocean.yaml TEST.ISTRUE=True",
        "--cfg experiments/train/Ocean.yaml TRAIN.ISTRUE=False")),
    "study": Command(options.StudyOptions, "lib.tools.study:main", "tracking/study.py", (
        "--cfg experiments/study/Botnet_sample.yaml", "--cfg experiments/study/Botnet.yaml")),
    "demo": Command(options.DemoOptions, "lib.tools.demo:main", "tracking/demo.py", ("", "--fresh")),
    "release": Command(options.ReleaseOptions, "lib.tools.export:release", "tracking/release.py", (
        "snapshot/checkpoint_e20.pth --name OceanNew", "snapshot/checkpoint_e20.pth --name OceanNew --out weights")),
    "vot": Command(options.VotTrackerOptions, "lib.tools.vot_toolkit:main", "tracking/vot_ocean.py", (
        "--resume OceanSmall", "--resume snapshot/checkpoint_e20.pth --dataset VOT2018")),
    "vot workspace": Command(options.VotWorkspaceOptions, "lib.tools.vot_toolkit:workspace",
                             "tracking/vot_workspace.py", (
        "WORKSPACE --stack vot2022/shorttermbox --resume OceanSmall",
        "WORKSPACE --stack tests/basic --resume OceanSmall --dummy")),
    "prepare": Command(options.PrepareOptions, "lib.datasets.prepare.run:main", "python -m lib.datasets.prepare", (
        "COCO --root RAW/coco --out data/coco", "GOT10K --root RAW/got10k --out data/got10k --no_crops")),
    "prepare check": Command(options.CheckOptions, "lib.datasets.prepare.upkeep:check",
                             "python -m lib.datasets.prepare check", (
        "data/coco", "data/coco --jobs 4")),
    "prepare pack": Command(options.PackOptions, "lib.datasets.prepare.upkeep:pack",
                             "python -m lib.datasets.prepare pack", (
        "data/coco", "data/coco --out data/coco/packed")),
    "prepare classes": Command(options.ClassesOptions, "lib.datasets.prepare.upkeep:classes",
                               "python -m lib.datasets.prepare classes", (
        "--root RAW/coco --out data/classes", "--root RAW/coco --out data/classes --least 100 --val 5")),
    "prepare select": Command(options.SelectOptions, "lib.datasets.prepare.upkeep:select",
                              "python -m lib.datasets.prepare select", (
        "data/vid/train.json --out data/vid/some.json --only 'ILSVRC2015_train_0000*'",
        "data/vid/train.json --out data/vid/rest.json --without 'ILSVRC2015_train_0000*'")),
}


def parse(name: str, argv: Sequence[str], *, prog: str = "") -> Any:
    """Return the options of a command, by its name in COMMANDS, or raise UserError; prog: what the help calls it."""
    command = COMMANDS[name]
    start = prog or (command.prog if command.prog.startswith("python ") else f"python {command.prog}")
    return parse_options(command.options, argv, prog=prog or command.prog.rpartition("/")[2],
                         about=command.options.__doc__ or "",
                         examples=[f"{start} {words}".strip() for words in command.examples])


def call(name: str, argv: Sequence[str], *, prog: str = "") -> int:
    """Return the exit code of a command: parse its words, import what does it, and call that with the options."""
    given = parse(name, argv, prog=prog)
    # Before torch is loaded: threads that spin while they wait take the cores from others on a shared machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    module, _, function = COMMANDS[name].entry.partition(":")
    return getattr(importlib.import_module(module), function)(given) or 0


def run(name: str) -> NoReturn:
    """Run a command with this process's words and leave with its exit code; a script is one call of this."""
    errors.run(lambda: call(name, sys.argv[1:]))


def main() -> int:
    """Return the exit code of `oceankit NAME ...`; NAME, of one word or two, is one of COMMANDS."""
    words = sys.argv[1:]
    name = next((name for name in (" ".join(words[:2]), *words[:1]) if name in COMMANDS), "")
    if name:
        return call(name, words[len(name.split()):], prog=f"oceankit {name}")
    if words and words[0] not in ("-h", "--help"):
        raise UserError(f"oceankit {words[0]}: no such command{did_you_mean(words[0], COMMANDS)}")
    print("usage: oceankit COMMAND ...; oceankit COMMAND --help tells its flags\n")
    for name, command in COMMANDS.items():
        print(f"  {name:16} {command.options.__doc__}")
    return 0
