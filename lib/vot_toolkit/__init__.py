"""VOT2020 and later through the official vot-toolkit: the tracker that it starts, and its workspace."""
