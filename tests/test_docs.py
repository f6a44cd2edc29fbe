"""The commands that README and docs show: each is one that its program takes, and the files it names exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from lib import commands

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PROGRAMS = {command.prog.removeprefix("python "): name for name, command in commands.COMMANDS.items()}
PROGRAMS |= {f"oceankit {name}": name for name in commands.COMMANDS}
PROGRAM = re.compile("|".join(re.escape(prog) for prog in sorted(PROGRAMS, key=len, reverse=True)))
PLACEHOLDER = re.compile(r"\b(KEYS|KEY=VALUE)\b")


def shown(page: Path) -> Iterator[tuple[str, str]]:
    """Return (name in COMMANDS, the words after the program) of each command line on a page.

    Those are the lines of bash blocks, and what stands between back quotes in running text.
    """
    text = page.read_text(encoding="utf-8")
    blocks = "".join(re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)).replace("\\\n", " ")
    quoted = re.findall(r"`([^`\n]*)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    for line in [*re.split(r"\n|&&", blocks), *quoted]:
        found = PROGRAM.search(line)
        if found and re.search("python|torchrun|-m |oceankit ", line[:found.start() + 9]):
            yield PROGRAMS[found[0]], line[found.end():].strip()


OURS = [(page.relative_to(ROOT).as_posix(), name, words) for page in PAGES for name, words in shown(page)]


def test_the_pages_show_every_command() -> None:
    assert {name for _, name, _ in OURS} >= set(commands.COMMANDS) - {"vot"}


@pytest.mark.parametrize(("page", "name", "line"), OURS, ids=[" ".join(row)[:80] for row in OURS])
def test_a_shown_command_line_is_understood(page: str, name: str, line: str) -> None:
    words = shlex.split(PLACEHOLDER.sub("", line), comments=True)
    assert commands.parse(name, words) is not None
    for path in [word for word in words if word.startswith("experiments/") and not set(word) & set("{$*")]:
        assert (ROOT / path.partition("=")[0]).exists(), f"{page} names {path}"


def test_links_between_the_pages_lead_somewhere() -> None:
    broken = []
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if not re.match(r"https?:", target) and not (page.parent / target).exists():
                broken.append(f"{page.relative_to(ROOT)} -> {target}")
    assert not broken, broken


def test_the_first_page_is_short() -> None:
    words = (ROOT / "README.md").read_text(encoding="utf-8").split()
    assert len(words) <= 900
