"""The algorithms, one file each (close relatives share one); ALGORITHMS has them by name, and those of others."""

from tether.algorithms.awac import AWAC
from tether.algorithms.awr import AWR
from tether.algorithms.bc import BC
from tether.algorithms.bcq import BCQ
from tether.algorithms.bdpo import BDPO
from tether.algorithms.bdpo_unimodal import BDPOUnimodal
from tether.algorithms.bear import BEAR
from tether.algorithms.best_of_n import BestOfN
from tether.algorithms.brac import BRACP, BRACV
from tether.algorithms.cal_ql import CalQL
from tether.algorithms.cql import CQL
from tether.algorithms.dac import DAC
from tether.algorithms.diffusion_bc import DiffusionBC
from tether.algorithms.dql import DQL
from tether.algorithms.dsrl import DSRL
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
from tether.algorithms.registry import ALGORITHMS, FAMILIES
from tether.algorithms.rem import REM
from tether.algorithms.rlpd import RLPD
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
    "DSRL",
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
    "RLPD",
    "SAC",
    "SQL",
    "SRPO",
    "TD3BC",
    "XQL",
    "Algorithm",
    "BDPOUnimodal",
    "BestOfN",
    "CalQL",
    "DiffusionBC",
    "Onestep",
    "Phase",
    "Policy",
    "PolicyWithMemory",
    "ReBRAC",
    "SfBC",
]
