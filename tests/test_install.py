"""What an installed package has beyond a checkout: the command `oceankit`, its own files, weights from an address."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import yaml
from tracker_stubs import small_checkpoint

from lib import commands, files
from lib.checkpoint import find_weights, params_beside, where_else
from lib.config_file import load_config
from lib.errors import UserError
from lib.fetch import cache_folder

ROOT = Path(__file__).resolve().parents[1]


def test_one_command_reaches_every_other(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["oceankit"])
    assert commands.main() == 0
    assert re.findall(r"^  (\w+(?: \w+)?)  ", capsys.readouterr().out, re.MULTILINE) == list(commands.COMMANDS)
    monkeypatch.setattr(sys, "argv", ["oceankit", "prepare", "check", "--help"])
    with pytest.raises(SystemExit):
        commands.main()
    said = capsys.readouterr().out
    assert said.startswith("usage: oceankit prepare check ")
    assert "\n  oceankit prepare check data/coco\n" in said
    monkeypatch.setattr(sys, "argv", ["oceankit", "trak"])
    with pytest.raises(UserError, match="oceankit trak: no such command; did you mean track"):
        commands.main()


def test_it_starts_from_any_folder_and_names_another_lib(tmp_path: Path) -> None:
    """`python LIB` is never led astray; the command says in one line what is."""
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "__init__.py").touch()
    settings = {"PYTHONPATH": str(tmp_path), "PATH": ""}
    there = subprocess.run([sys.executable, str(files.MAIN), "train"], cwd=tmp_path, env=settings, capture_output=True,
                           text=True, check=False)
    assert there.stderr == ("error: oceankit train: the following arguments are required: --cfg; --help lists all "
                            "flags\n")
    code = f"import sys; sys.path.append({str(ROOT)!r}); import oceankit; oceankit.main()"
    astray = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=settings, capture_output=True, text=True,
                            check=False)
    assert astray.returncode == 2
    assert re.fullmatch(r"error: another package called lib comes before .*\n", astray.stderr)
    assert str(tmp_path / "lib") in astray.stderr


def test_a_yaml_file_is_looked_for_here_then_in_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("experiments") / "train" / "OceanDemo.yaml"
    assert load_config(path) == load_config(ROOT / path)
    path.parent.mkdir(parents=True)
    path.write_text((ROOT / path).read_text().replace("END_EPOCH: ", "END_EPOCH: 1"))
    assert load_config(path) != load_config(ROOT / path)
    with pytest.raises(UserError, match=r"^experiments/train/Gone\.yaml: no such file"):
        load_config("experiments/train/Gone.yaml")


def test_the_wheel_holds_what_is_found_by_name() -> None:
    """The setup file is asked, as building takes long: every file below experiments is package data."""
    code = """import setuptools, distutils.core as core
build = core.run_setup("setup.py", stop_after="init").get_command_obj("build_py")
build.ensure_finalized()
print(*(file for package, _, _, files in build.data_files if package == "lib.experiments" for file in files))"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    place = ROOT / "experiments"
    assert set(done.stdout.split()) == {path.relative_to(place).as_posix() for path in place.rglob("[!.]*.*")}


def test_the_container_is_what_the_first_page_installs() -> None:
    readme, recipe = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "Dockerfile"))
    (install,) = re.findall(r"^RUN cd /oceankit && (.*)$", recipe, re.MULTILINE)
    first, second = readme.partition("<!-- install commands -->")[2].splitlines()[2:4]
    assert install == first
    (entry,) = re.findall(r'^ENTRYPOINT \["(\w+)"\]$', recipe, re.MULTILINE)
    assert second.startswith(f"{entry} track ")


# Weights from an address


class Server(ThreadingHTTPServer):
    """Serves `content` by path, from the asked byte on; `cut` answers end after so many bytes."""

    content: dict[str, bytes]
    cut: list[int]
    asked: list[str]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        span = self.headers.get("Range", "")
        self.server.asked.append(f"{self.path} {span}".strip())
        content = self.server.content.get(self.path)
        start = int(span[6:-1]) if span else 0
        if content is None or start >= len(content):
            self.send_error(404 if content is None else 416)
            return
        self.send_response(206 if span else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = self.server.cut.pop(0) if self.server.cut else len(content)
        self.wfile.write(content[start : start + end])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Return a server on the loopback with weights and their settings, which a table names."""
    server = Server(("127.0.0.1", 0), Handler)
    weights = small_checkpoint(tmp_path / "made.pth").read_bytes()
    server.content = {"/w.pth": weights, "/s.yaml": b"TEST: {lr: 0.5}\n"}
    server.cut, server.asked = [], []
    table = {name: {"url": f"http://127.0.0.1:{server.server_port}{path}",
                    "sha256": hashlib.sha256(server.content[path]).hexdigest()}
             for name, path in (("Far.pth", "/w.pth"), ("Far.yaml", "/s.yaml"))}
    (tmp_path / "table.yaml").write_text(yaml.safe_dump(table))
    monkeypatch.setenv("OCEANKIT_TABLE", str(tmp_path / "table.yaml"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_weights_are_fetched_once_with_their_settings(server: Server) -> None:
    path = find_weights("Far")
    assert path == cache_folder() / "Far.pth"
    assert path.read_bytes() == server.content["/w.pth"]
    assert params_beside("Far") == cache_folder() / "Far.yaml"
    assert server.asked == ["/s.yaml", "/w.pth"]
    assert find_weights("OceanSmall").is_file()
    assert find_weights("gone") == Path("gone")
    assert "did you mean Far?" in where_else("Fra")


def test_a_broken_connection_is_taken_up_again(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one command three times; the next command goes on from there."""
    monkeypatch.setattr("lib.fetch.TRIES", 2)
    server.cut = [99, 1000, 500]
    with pytest.raises(UserError, match=r"/w\.pth: cannot be fetched \(it ended after 500 bytes\); the same command"):
        find_weights("Far")
    assert not (cache_folder() / "Far.pth").exists()
    assert find_weights("Far").read_bytes() == server.content["/w.pth"]
    assert server.asked[1:] == ["/w.pth", "/w.pth bytes=1000-", "/w.pth bytes=1500-"]


def test_another_file_than_the_tables_is_refused(server: Server) -> None:
    right = server.content["/w.pth"]
    server.content["/w.pth"] = b"something else"
    with pytest.raises(UserError, match=r"/w\.pth: refused, nothing of it is kept: its SHA-256 is"):
        find_weights("Far")
    assert [path.name for path in cache_folder().glob("[!.]*")] == ["Far.yaml"]
    server.content["/w.pth"] = right
    (cache_folder() / ".Far.pth.part").write_bytes(right)  # a kill between the last byte and the check
    assert find_weights("Far").read_bytes() == right
    assert server.asked[-1] == f"/w.pth bytes={len(right)}-"


def test_a_table_that_is_none_is_told(server: Server) -> None:
    table = Path("table.yaml")
    for text, said in (("[1]", "expected FILE: {url"), ("A.pth: {url: 'ftp://x', sha256: a}", r"A\.pth: expected NAME"),
                       ("../A.pth: {url: 'http://x', sha256: a}", r"\.\./A\.pth: expected NAME")):
        table.write_text(text)
        with pytest.raises(UserError, match=said):
            find_weights("Far")
    assert not server.asked
