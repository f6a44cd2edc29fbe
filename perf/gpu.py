"""The path on the GPU, proved and measured: one command, under nine minutes, a table and one JSON line per row.

    python perf/gpu.py                         # where there is a GPU: writes docs/GPU.md
    python perf/gpu.py --only "training Ocean" # the rows whose names begin so
    python perf/gpu.py --tiny                  # tiny networks, also without a GPU, where the CPU stands in for it

Each row runs in a process of its own with a time limit of its own, so that a crash, a hang or a full memory costs one
row; rows for which no time is left are named. A run on the CPU calls itself a stand-in and leaves docs/GPU.md alone.
Beside the code it needs nothing: weights come along, pictures are made (or taken from --data, made by `prepare`).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from lib.distributed import die_with_parent
from lib.tools.measure import commit, load, machine
from perf import gpu_rows as rows

ROOT = Path(__file__).resolve().parents[1]
WHOLE = 530.0  # seconds of all rows on a GPU
PATIENCE = 600.0  # seconds of a row where the CPU stands in, which is asked whether it runs, not how fast


class Row(NamedTuple):
    """Something to find out: a function of the sizes that returns what was found, by name."""

    limit: float  # seconds
    find: Callable[[rows.Sizes], Mapping[str, Any]]


def all_rows() -> dict[str, Row]:
    """Return every row by its name, the most telling ones first."""
    ways: dict[str, dict[str, Any]] = {
        "float32, TF32 off": {}, "float32, TF32 on": {"tf32": True}, "bf16": {"amp": "bf16"}, "fp16": {"amp": "fp16"},
        "channels first": {"channels_last": False}, "lockstep 8": {"batch": 8}, "lockstep 32": {"batch": 32},
        "ONNX Runtime": {"onnx": True}, "compiled": {"compiled": True}}
    found = {f"conformance, {name}": Row(90, partial(rows.conformance, **way)) for name, way in ways.items()}
    found |= {f"track one, {way}": Row(90, partial(rows.track_one, way=way))
              for way in ("as the reference", "eager", "compiled", "CUDA graph")}
    found |= {"one rank, NCCL": Row(60, rows.one_rank), "two ranks, gloo": Row(60, rows.two_ranks),
              "resume": Row(90, partial(rows.interrupted, number=signal.SIGTERM)),
              "kill": Row(90, partial(rows.interrupted, number=signal.SIGKILL))}
    found |= {f"training {name}, batch {batch}": Row(45, partial(rows.training, name=name, batch=batch))
              for batch in (32, 64, 128) for name in ("Ocean", "Ocean_align", "Ocean_MHSA", "Ocean_ViT")}
    ocean = partial(rows.training, name="Ocean", batch=32)
    found |= {"training Ocean, batch 32, float32": Row(45, partial(ocean, amp="none")),
              "training Ocean, batch 32, compiled": Row(90, partial(ocean, compiled=True))}
    found |= {f"lockstep {batch}": Row(45, partial(rows.lockstep_speed, batch=batch)) for batch in (8, 32, 128)}
    found["sixteen checkpoints"] = Row(60, partial(rows.lockstep_speed, batch=8, checkpoints=16))
    return found


def in_child(name: str, sizes: rows.Sizes, answer: Any) -> None:
    """Find out what a row asks, in a process of its own, and send it; what others print goes to standard error."""
    os.setsid()
    die_with_parent(signal.SIGKILL)
    os.dup2(2, 1)
    torch.backends.cudnn.benchmark = True
    try:
        found = dict(all_rows()[name].find(sizes))
        if sizes.device == "cuda":
            found["gpu_memory_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
        answer.send(found)
    except Exception as error:  # whatever it is, it is this row's finding
        answer.send({"failed": f"{type(error).__name__}: {error}"[:300]})


def ask(name: str, limit: float, sizes: rows.Sizes, context: Any) -> dict[str, Any]:
    """Return what was found for a row, or how it failed, after `limit` seconds at most."""
    begin = time.monotonic()
    answer, other = context.Pipe(duplex=False)
    child = context.Process(target=in_child, args=(name, sizes, other))
    child.start()
    other.close()
    try:
        found = answer.recv() if answer.poll(limit) else {"failed": f"ran past its limit of {limit:.0f} s"}
    except EOFError:
        child.join()
        found = {"failed": f"its process ended with exit code {child.exitcode}"}
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)  # with the processes that it has started
    child.join()
    return {"row": name, **found, "seconds": round(time.monotonic() - begin, 1)}


def where(device: str) -> str:
    """Return device, driver and torch in one line."""
    if device == "cpu":
        return f"CPU stand-in, no GPU: {machine(torch.device('cpu'), busy=load())}"
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    driver = "unknown"
    if shutil.which(query[0]):
        driver = subprocess.run(query, capture_output=True, text=True, check=False).stdout.split("\n")[0] or driver
    return f"{machine(torch.device('cuda'), busy=load())}, driver {driver}, CUDA {torch.version.cuda}"


def page(found: list[dict[str, Any]], *, place: str, command: str, seconds: float) -> str:
    """Return the page: what ran where, and a table."""
    title = "CPU stand-in: nothing here was measured on a GPU" if "CPU stand-in" in place else "On a GPU"
    lines = [f"# {title}", "", f"`{command}`, commit {commit()}, {seconds:.0f} s.", "", f"{place}.", "",
             "| row | found | s |", "|---|---|--:|"]
    for row in found:
        texts = [f"{name.replace('_', ' ')} {value}" for name, value in row.items() if name not in ("row", "seconds")]
        lines.append(f"| {row['row']} | {'; '.join(texts).replace('|', '/')} | {row['seconds']} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Ask for every row, print what was found, write the page; return 1 when a row failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[""], metavar="ROW", help="beginnings of names of rows")
    parser.add_argument("--tiny", action="store_true", help="tiny networks and few frames: does it run at all?")
    parser.add_argument("--data", type=Path, help="a folder of `prepare`'s with crop511 and train.json")
    parser.add_argument("--out", type=Path, help="default: docs/GPU.md, without a GPU result/gpu_stand_in.md")
    given = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    # A child of the fork server has loaded all that a row needs.
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["perf.gpu_rows"])
    begin, found, place = time.monotonic(), [], where(device)
    with tempfile.TemporaryDirectory() as folder:
        sizes = replace(rows.TINY if given.tiny else rows.FULL, device=device, folder=folder)
        sizes = replace(sizes, data=str(given.data or rows.write_crops(sizes)))
        for name, row in all_rows().items():
            if name.startswith(tuple(given.only)):
                left = WHOLE - (time.monotonic() - begin)
                limit = min(row.limit, left) if device == "cuda" else PATIENCE
                result = ask(name, limit, sizes, context) if limit > 0 else {
                    "row": name, "failed": "no time was left", "seconds": 0}
                found.append(result)
                print(json.dumps({"benchmark": "gpu", "place": place, **result}), flush=True)
    seconds = time.monotonic() - begin
    text = page(found, place=place, command=shlex.join(["python", "perf/gpu.py", *sys.argv[1:]]), seconds=seconds)
    out = given.out or ROOT / ("docs/GPU.md" if device == "cuda" else "result/gpu_stand_in.md")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")
    print(text, end="", file=sys.stderr)
    return int(any("failed" in row for row in found))


if __name__ == "__main__":
    sys.exit(main())
