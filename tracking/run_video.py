"""Follow a target in your own video: python tracking/run_video.py SOURCE --init x,y,w,h --resume CKPT; see --help."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib.commands import run

run("track")
