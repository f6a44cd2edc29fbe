"""The parts of testing: opening a tracker, its result folder, the restart protocol, videos with boxes."""
