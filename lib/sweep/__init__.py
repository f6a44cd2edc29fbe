"""Testing many checkpoints with any number of processes and machines that share nothing but a disk."""
