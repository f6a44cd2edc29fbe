"""Compare models: python tracking/compare.py YAML YAML ... --dataset OTB2015; see --help."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib.commands import run

if __name__ == "__main__":  # each model is measured in a process of its own, which imports this file again
    run("compare")
