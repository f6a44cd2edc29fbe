"""Train, test the epochs, tune and report, as one YAML says: python tracking/onekey.py --cfg FILE."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib.commands import run

run("onekey")
