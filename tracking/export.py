"""Export a checkpoint to ONNX: python tracking/export.py CKPT --out DIR; see --help."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib.commands import run

run("export")
