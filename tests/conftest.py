"""What every test needs before torch is loaded."""

import os

# Two workers with a thread for each core would spend their time waiting for each other; their children likewise.
os.environ.setdefault("OMP_NUM_THREADS", "1")
