"""Train a classifier: python tracking/pretrain.py --cfg FILE [KEY=VALUE ...]; --help lists the options."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib.commands import run

run("pretrain")
