"""The commands that README and docs show: each is one that its program takes, and the files it names exist."""

from __future__ import annotations

import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from lib import commands

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "README.zh.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
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


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and the site make them."""
    heads = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", head.lower()).strip()) for head in heads}


def test_links_between_the_pages_lead_somewhere() -> None:
    broken = []
    for page in PAGES:
        for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)]*))?\)", page.read_text(encoding="utf-8")):
            path = page.parent / target if target else page
            if not re.match(r"https?:", target) and not (path.exists() and (not anchor or anchor in anchors(path))):
                broken.append(f"{page.relative_to(ROOT)} -> {target}#{anchor}")
    assert not broken, broken


def test_the_site_has_every_page_and_each_name_of_the_api_exists() -> None:
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    listed = [name for entry in nav for name in ([entry] if isinstance(entry, str) else next(iter(entry.values())))]
    assert sorted(listed) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))
    for name in re.findall(r"^::: (.*)$", (ROOT / "docs" / "API.md").read_text(encoding="utf-8"), flags=re.MULTILINE):
        module, _, attribute = name.rpartition(".")
        assert getattr(importlib.import_module(module), attribute).__doc__, name


def test_the_chinese_page_says_what_the_english_one_says() -> None:
    english, chinese = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh.md"))
    for pattern in (r"```bash\n.*?```", r"^#+ ", r"(?<=\]\()(?!README)[^)]*", r"(?<=\| )\d\.\d+", r"^- \*\*",
                    r"`[^`\n]+`"):
        told = [re.findall(pattern, page, flags=re.DOTALL | re.MULTILINE) for page in (english, chinese)]
        assert told[0], pattern
        assert told[0] == told[1], pattern


def test_the_first_page_is_short() -> None:
    words = (ROOT / "README.md").read_text(encoding="utf-8").split()
    assert len(words) <= 900
