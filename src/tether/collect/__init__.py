"""Collecting data: online SAC, rollouts of policies and controllers, a planner for mazes."""

from tether.collect.plan import KINDS, LAYOUTS, CollectOptions, Made, collect

__all__ = ["KINDS", "LAYOUTS", "CollectOptions", "Made", "collect"]
