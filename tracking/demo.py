"""Train, test, score and show a small Ocean: python tracking/demo.py; --help lists the options."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib.commands import run

run("demo")
