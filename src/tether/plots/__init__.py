"""Pictures of runs: curves, trade-offs."""
