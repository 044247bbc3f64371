"""Diffusion mathematics: pure functions, no optimiser, no averaging of weights, no device."""
