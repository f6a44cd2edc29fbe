"""Score trackers: python lib/eval_toolkit/bin/eval.py --dataset_dir DIR --dataset OTB2015 --tracker_result_dir DIR."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from lib.commands import run

if __name__ == "__main__":
    run("eval")
