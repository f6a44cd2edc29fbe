"""How processes end: a user's mistake is one line on standard error and exit code 2, and none outlives its parent."""

from __future__ import annotations

import contextlib
import ctypes
import difflib
import importlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
_LONGEST = 1500  # characters of a message


class UserError(Exception):
    """A mistake of the user's, told in one line: the place, what was found, what was expected and how to mend it."""

    def __init__(self, message: str) -> None:
        line = one_line(message)
        # A stranger's name of a megabyte must not drown the rest.
        super().__init__(line if len(line) <= _LONGEST else f"{line[: _LONGEST // 2]} ... {line[-_LONGEST // 3 :]}")


def run(main: Callable[[], int | None]) -> NoReturn:
    """Call `main` and leave with its exit code, 2 after a UserError, 130 after Ctrl-C; a script is one call of this."""
    try:
        code = main() or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = EXIT_USER_ERROR
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output (`head`, a pager) left: not an error of ours, and nothing more can be said to it.
        sys.stderr.close()
        code = 1
    sys.exit(code)


def die_with_parent(number: signal.Signals = signal.SIGTERM) -> None:
    """See to it that this process gets a signal when the one that started it is killed, so that no orphan goes on."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(1, number)  # 1 is PR_SET_PDEATHSIG
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid != os.getppid():  # Linux heeds the fork server, which lives on with us

        def follow() -> None:
            parent.join()
            os.kill(os.getpid(), number)

        threading.Thread(target=follow, daemon=True).start()


def package(name: str, *, needed_by: str, install: str = "") -> Any:
    """Return a module of an optional package; raise UserError telling how it is installed (default: by its name)."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        top = name.partition(".")[0]
        raise UserError(f"{needed_by} needs {top} ({error}): pip install {install or top}") from error


def one_line(text: str) -> str:
    """Return `text` with line breaks and control characters replaced, so that a hostile name cannot forge output."""
    return "".join(c if c.isprintable() else " " for c in " ".join(text.split()))


def listed(names: Sequence[str], *, shown: int = 5) -> str:
    """Return names as text, the first few in full and how many more there are."""
    more = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {more} more" if more > 0 else "")


def did_you_mean(key: str, valid: Iterable[str], *, prefix: str = "") -> str:
    """Return "; did you mean NEAREST?" for a misspelt name, or the valid names, `prefix` before each of them."""
    names = sorted(valid)
    by_lower = {name.lower(): name for name in names}
    close = difflib.get_close_matches(key.lower(), by_lower, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {prefix}{by_lower[close[0]]}?"
    return f"; valid here: {', '.join(prefix + name for name in names)}"
