"""A tracker for the official vot-toolkit, which starts it; see tracking/vot_workspace.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib.commands import run

run("vot")
