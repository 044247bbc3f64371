"""Collecting data: online SAC, rollouts of policies and controllers, a planner for mazes."""

from tether.collect.plan import KINDS, LAYOUTS, Made, Options, collect

__all__ = ["KINDS", "LAYOUTS", "Made", "Options", "collect"]
