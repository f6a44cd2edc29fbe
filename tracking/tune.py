"""Tune the tracking hyper-parameters: python tracking/tune.py --cfg FILE --resume CKPT --dataset OTB2015."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib.commands import run

run("tune")
