"""Write weights for others to use: python tracking/release.py CHECKPOINT --name NAME."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib.errors import run
from lib.tools.release import main

run(main)
