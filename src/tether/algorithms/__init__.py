"""The algorithms, one file each. ALGORITHMS is the registry: a literal dict, no import magic."""

from tether.algorithms.dtql import DTQL
from tether.algorithms.interface import Algorithm, Phase, Policy

__all__ = ["ALGORITHMS", "DTQL", "Algorithm", "Phase", "Policy"]

ALGORITHMS: dict[str, type] = {"dtql": DTQL}
