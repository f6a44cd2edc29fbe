"""Test and score many checkpoints: python tracking/test_epochs.py --arch Ocean --dataset OTB2015; see --help."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib.commands import run

run("sweep")
