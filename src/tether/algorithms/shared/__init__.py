"""Equations and optimisers that several algorithms share. Pure functions."""
