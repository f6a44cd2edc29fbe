"""Measure how well a tracker tells target from rest: python tracking/margin.py --resume CKPT --dataset OTB2015."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib.commands import run

run("margin")
