"""The parts of training: stage, schedule, loader, resume, watch and the job that holds them."""
