"""Evaluation: rollouts, statistics, pictures."""
