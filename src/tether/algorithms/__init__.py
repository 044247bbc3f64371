"""The algorithms, one file each (close relatives share one). ALGORITHMS is the registry: a literal dict, no magic."""

from tether.algorithms.awac import AWAC
from tether.algorithms.awr import AWR
from tether.algorithms.bc import BC
from tether.algorithms.bcq import BCQ
from tether.algorithms.bdpo import BDPO
from tether.algorithms.bdpo_unimodal import BDPOUnimodal
from tether.algorithms.bear import BEAR
from tether.algorithms.brac import BRACP, BRACV
from tether.algorithms.cql import CQL
from tether.algorithms.dac import DAC
from tether.algorithms.diffusion_bc import DiffusionBC
from tether.algorithms.dql import DQL
from tether.algorithms.dt import DT
from tether.algorithms.dtql import DTQL
from tether.algorithms.dtql_kl import DTQLKL
from tether.algorithms.edp import EDP
from tether.algorithms.fql import FQL
from tether.algorithms.idql import IDQL
from tether.algorithms.ifql import IFQL
from tether.algorithms.interface import Algorithm, Phase, Policy, PolicyWithMemory
from tether.algorithms.iql import IQL
from tether.algorithms.ivr import EQL, SQL
from tether.algorithms.onestep import Onestep
from tether.algorithms.qgpo import QGPO
from tether.algorithms.rebrac import ReBRAC
from tether.algorithms.rem import REM
from tether.algorithms.sac import SAC
from tether.algorithms.sfbc import SfBC
from tether.algorithms.srpo import SRPO
from tether.algorithms.td3_bc import TD3BC
from tether.algorithms.xql import XQL

__all__ = [
    "ALGORITHMS",
    "AWAC",
    "AWR",
    "BC",
    "BCQ",
    "BDPO",
    "BEAR",
    "BRACP",
    "BRACV",
    "CQL",
    "DAC",
    "DQL",
    "DT",
    "DTQL",
    "DTQLKL",
    "EDP",
    "EQL",
    "FAMILIES",
    "FQL",
    "IDQL",
    "IFQL",
    "IQL",
    "QGPO",
    "REM",
    "SAC",
    "SQL",
    "SRPO",
    "TD3BC",
    "XQL",
    "Algorithm",
    "BDPOUnimodal",
    "DiffusionBC",
    "Onestep",
    "Phase",
    "Policy",
    "PolicyWithMemory",
    "ReBRAC",
    "SfBC",
]

ALGORITHMS: dict[str, type] = {
    # held to the data by a diffusion model of them
    "dtql": DTQL,
    "dtql-kl": DTQLKL,
    "dac": DAC,
    "bdpo": BDPO,
    "bdpo-unimodal": BDPOUnimodal,
    # cloning
    "bc": BC,
    "diffusion-bc": DiffusionBC,
    # sequence model
    "dt": DT,
    # diffusion and flow policies
    "dql": DQL,
    "edp": EDP,
    "idql": IDQL,
    "srpo": SRPO,
    "qgpo": QGPO,
    "sfbc": SfBC,
    "fql": FQL,
    "ifql": IFQL,
    # in-sample and weighted regression
    "iql": IQL,
    "sql": SQL,
    "eql": EQL,
    "xql": XQL,
    "awac": AWAC,
    "awr": AWR,
    "onestep": Onestep,
    # policy constraint
    "td3-bc": TD3BC,
    "rebrac": ReBRAC,
    "bcq": BCQ,
    "bear": BEAR,
    "brac-p": BRACP,
    "brac-v": BRACV,
    # conservative and ensembles
    "cql": CQL,
    "rem": REM,
    "sac": SAC,
}

FAMILIES: dict[str, tuple[str, ...]] = {
    "held to the data by a diffusion model of them": (
        "dtql",
        "dtql-kl",
        "dac",
        "bdpo",
        "bdpo-unimodal",
    ),
    "cloning": (
        "bc",
        "diffusion-bc",
    ),
    "sequence model": ("dt",),
    "diffusion and flow policies": (
        "dql",
        "edp",
        "idql",
        "srpo",
        "qgpo",
        "sfbc",
        "fql",
        "ifql",
    ),
    "in-sample and weighted regression": (
        "iql",
        "sql",
        "eql",
        "xql",
        "awac",
        "awr",
        "onestep",
    ),
    "policy constraint": (
        "td3-bc",
        "rebrac",
        "bcq",
        "bear",
        "brac-p",
        "brac-v",
    ),
    "conservative and ensembles": (
        "cql",
        "rem",
        "sac",
    ),
}
"""What keeps the policy near the data -> the algorithms that do it so."""
