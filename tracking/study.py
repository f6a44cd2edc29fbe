"""Compare arms over several seeds: python tracking/study.py --cfg experiments/study/Botnet_sample.yaml."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib.commands import run

run("study")
