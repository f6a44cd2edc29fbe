"""`python LIB NAME ...`, the command `oceankit` for a Python that need not know the package, from any folder."""

import sys
from pathlib import Path

if __name__ == "__main__":  # processes that it starts import this file again
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from lib import commands, errors

    errors.run(commands.main)
