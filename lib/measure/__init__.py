"""What a tracker costs on this machine, and what it scores, measured in memory."""
