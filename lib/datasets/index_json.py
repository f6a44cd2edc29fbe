"""Reading of an index JSON video by video: a file of hundreds of megabytes never becomes one tree of Python objects."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from lib.errors import UserError
from lib.files import open_regular

_CHUNK = 4 * 2**20  # characters read at a time
_SPACE = " \t\n\r"


class _Reader:
    """A cursor over the text of a file, of which only the part not yet consumed is held."""

    def __init__(self, file: IO[str], path: Path) -> None:
        self.file, self.path = file, path
        self.text, self.at = "", 0
        self.line, self.column = 1, 1  # of self.text[0]
        self.decoder = json.JSONDecoder()

    def more(self) -> bool:
        """Return whether more text could be read; what is consumed is dropped, and each call reads twice as much."""
        gone = self.text[: self.at]
        if (breaks := gone.count("\n")) > 0:
            self.line, self.column = self.line + breaks, len(gone) - gone.rfind("\n")
        else:
            self.column += len(gone)
        rest = self.text[self.at :]
        new = self.file.read(max(_CHUNK, 2 * len(rest)))
        self.text, self.at = rest + new, 0
        return bool(new)

    def peek(self) -> str:
        """Return the next character that is not white space, without consuming it; "" at the end."""
        found = self.text[self.at : self.at + 1]
        if found and found not in _SPACE:
            return found
        while True:
            while self.at < len(self.text) and self.text[self.at] in _SPACE:
                self.at += 1
            if self.at < len(self.text) or not self.more():
                return self.text[self.at : self.at + 1]

    def take(self, allowed: str) -> str:
        """Return and consume the next character, which must be one of `allowed`."""
        found = self.peek()
        if not found or found not in allowed:
            self.fail(f"expected {' or '.join(repr(c) for c in allowed)}, found {found!r}" if found else "it ends here")
        self.at += 1
        return found

    def value(self) -> Any:
        """Return and consume the next JSON string or object, reading on until it is whole."""
        self.peek()
        while True:
            try:
                value, self.at = self.decoder.raw_decode(self.text, self.at)
                return value
            except json.JSONDecodeError as error:
                # Cut off at the end of what was read, or wrong? Only more text can tell.
                message, offset = error.msg, error.pos - self.at
                if not self.more():
                    self.at += offset
                    self.fail(message)

    def fail(self, message: str) -> None:
        """Raise UserError with the line and column of the cursor."""
        gone = self.text[: self.at]
        breaks = gone.count("\n")
        column = len(gone) - gone.rfind("\n") if breaks else self.column + len(gone)
        raise UserError(f"{self.path}: not JSON at line {self.line + breaks} column {column} ({message}); "
                        f"expected {{video: {{track: {{frame: [x1, y1, x2, y2]}}}}}}")


def iter_videos(path: Path) -> Iterator[tuple[str, Any]]:
    """Return an iterator over (video name, value) of a JSON object {name: value}, in the file's order.

    Only a few megabytes of text and one video's value are held at a time. Raises UserError with line and column when
    the file is not JSON, not an object, not UTF-8 or cannot be read.
    """
    try:
        with open_regular(path) as binary, io.TextIOWrapper(binary, encoding="utf-8-sig") as file:
            reader = _Reader(file, path)
            reader.take("{")
            more = reader.peek() != "}" or reader.take("}") == ","
            while more:
                if reader.peek() != '"':
                    reader.fail("expected a video name in double quotes")
                name = reader.value()
                reader.take(":")
                yield name, reader.value()
                more = reader.take(",}") == ","
            if reader.peek():
                reader.fail("something follows the closing brace")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason}); expected an index JSON") from error
    except (OSError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read ({error}); expected an index JSON") from error
