"""Write a workspace of the official vot-toolkit: python tracking/vot_workspace.py DIR --stack NAME --resume CKPT."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib.commands import run

run("vot workspace")
