"""Training: `loop` sets a run up, `trainer` has the loop and what it does between steps, the others are its parts."""
