"""The algorithms, one file each. ALGORITHMS is the registry: a literal dict, no import magic."""

from tether.algorithms.bdpo import BDPO
from tether.algorithms.bdpo_unimodal import BDPOUnimodal
from tether.algorithms.dac import DAC
from tether.algorithms.dtql import DTQL
from tether.algorithms.dtql_kl import DTQLKL
from tether.algorithms.interface import Algorithm, Phase, Policy

__all__ = ["ALGORITHMS", "BDPO", "DAC", "DTQL", "DTQLKL", "Algorithm", "BDPOUnimodal", "Phase", "Policy"]

ALGORITHMS: dict[str, type] = {
    "dtql": DTQL,
    "dtql-kl": DTQLKL,
    "dac": DAC,
    "bdpo": BDPO,
    "bdpo-unimodal": BDPOUnimodal,
}
