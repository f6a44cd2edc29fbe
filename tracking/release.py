"""Write weights for others to use: python tracking/release.py CHECKPOINT --name NAME."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib.commands import run

run("release")
