"""Evaluation: rollouts, the processes that play them, statistics."""
