"""Training: lanes, the compiled loop, runs and their checkpoints."""
