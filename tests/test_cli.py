"""Command lines: quick help with examples that are right, one spelling, the nearest flag, one-line complaints."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Literal

import pytest

from lib.cli import as_argv, flag, parse_options
from lib.commands import COMMANDS, parse
from lib.errors import UserError

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_comes_at_once_with_defaults_and_examples(name: str) -> None:
    prog = COMMANDS[name].prog.split()
    start = ["-m", *prog[2:]] if prog[0] == "python" else prog
    code = ("import atexit, json, runpy, sys; atexit.register(lambda: print(json.dumps(sorted(sys.modules)))); "
            "sys.argv = sys.argv[1:]; "
            "sys.argv[0] == '-m' and (sys.argv.pop(0), runpy.run_module(sys.argv[0], run_name='__main__', "
            "alter_sys=True)) or runpy.run_path(sys.argv[0], run_name='__main__')")
    done = subprocess.run([sys.executable, "-c", code, *start, "--help"], cwd=ROOT, capture_output=True, text=True,
                          check=False)
    assert done.returncode == 0, done.stderr
    text, modules = done.stdout.rsplit("\n", 2)[0], json.loads(done.stdout.splitlines()[-1])
    assert not {"torch", "matplotlib", "scipy"} & set(modules), "help waits for no slow import"
    assert text.count(f"python {' '.join(prog).removeprefix('python ')}") >= 2, "two examples"
    for field in fields(COMMANDS[name].options):
        shown = (field.metadata["metavar"] or field.name) if field.metadata["positional"] else f"--{field.name}"
        assert bool(re.search(rf"{re.escape(shown)}(?!\w)", text)) != field.metadata["hidden"], shown
        said = re.search(rf"\n  {re.escape(shown)}\b(.+?)(?=\n  -|\n\n)", text, flags=re.DOTALL)
        if said and field.default not in (MISSING, None, "", ()):  # False and 0 are defaults too
            assert "default" in said[1], shown


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_are_understood_and_the_command_is_there(name: str) -> None:
    for words in COMMANDS[name].examples:
        options = parse(name, shlex.split(words))
        assert parse(name, as_argv(options)) == options
    module, _, function = COMMANDS[name].entry.partition(":")
    path = ROOT / f"{module.replace('.', '/')}.py"
    path = path if path.is_file() else path.with_suffix("") / "__init__.py"
    defined = [node.name for node in ast.parse(path.read_text(encoding="utf-8")).body
               if isinstance(node, ast.FunctionDef)]
    assert function in defined


@dataclass(frozen=True, kw_only=True)
class Toy:
    """A command."""

    words: tuple[str, ...] = flag("any", (), positional=True)
    init: tuple[str, ...] = flag("boxes", ())
    max_aspect: float = flag("a number", 2.5, least=1, most=9)
    align: bool | None = flag("a truth", None)
    fresh: bool = flag("a truth", False)
    embed: int = flag("a number or nothing", 0, alone=2000)
    kind: Literal["one", "two"] = flag("a choice", "one")


def toy(text: str) -> Toy:
    return parse_options(Toy, shlex.split(text), prog="toy.py", about="A toy.")


@pytest.mark.parametrize(("text", "expected"), [
    ("", Toy()),
    ("--max-aspect 3 --init=1,2,3,4", Toy(max_aspect=3.0, init=("1,2,3,4",))),
    ("--max_aspect=3 --init -10,5,30,40", Toy(max_aspect=3.0, init=("-10,5,30,40",))),
    ("--fresh --embed --kind two", Toy(fresh=True, embed=2000, kind="two")),
    ("--fresh False --embed 7 --align True", Toy(align=True, embed=7)),
    ("a --fresh b=1", Toy(words=("a", "b=1"), fresh=True)),
    ("--init 1,2,3,4 --fresh --init -5,6,7,8", Toy(init=("1,2,3,4", "-5,6,7,8"), fresh=True)),
    ("--init 1,2,3,4 -5,6,7,8 -- odd", Toy(init=("1,2,3,4", "-5,6,7,8"), words=("odd",))),
])
def test_flags_are_read(text: str, expected: Toy) -> None:
    assert toy(text) == expected


@pytest.mark.parametrize(("text", "words"), [
    ("--max-aspct 3", "no flag --max-aspct; did you mean --max_aspect"),
    ("--gpus 0", "no flag --gpus; valid here: --align, --embed"),
    ("--max_aspect 0", "'0' is not a number from 1 to 9"),
    ("--max_aspect x", "'x' is not a number"),
    ("--align=yes", "neither True nor False"),
    ("--kind three", "one"),
])
def test_a_mistake_is_one_line_with_the_flag(text: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        toy(text)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "--help lists all flags" in str(caught.value)
    assert text.split()[0].split("=")[0] in str(caught.value)


def test_threads_are_told_to_sleep_while_they_wait_before_torch_is_loaded() -> None:
    code = """
import os, sys, types
from lib import commands
probe = types.ModuleType("probe")
probe.main = lambda given: print("torch" in sys.modules, os.environ["OMP_WAIT_POLICY"])
sys.modules["probe"] = probe
commands.COMMANDS["demo"] = commands.COMMANDS["demo"]._replace(entry="probe:main")
commands.call("demo", [])
"""
    bare = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    for environment, expected in ((bare, "False PASSIVE"), ({**bare, "OMP_WAIT_POLICY": "ACTIVE"}, "False ACTIVE")):
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True,
                              check=True)
        assert done.stdout.strip() == expected, "what the user set stays"
