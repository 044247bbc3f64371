"""tether: offline reinforcement learning with diffusion behaviour models.

import tether

data = tether.load_dataset("halfcheetah-medium.hdf5")
report = tether.train(tether.DTQL(train_updates=100_000), data, seeds=4)
policy = tether.load_policy(report.folder)
action = policy(observation)

docs/api.md lists the public names, which are those of `__all__`; whatever else can be imported is internal.
"""

import importlib
from typing import TYPE_CHECKING, Any

from tether._version import __version__ as __version__

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
    "BDPOUnimodal",
    "BestOfN",
    "CalQL",
    "Callback",
    "Dataset",
    "DiffusionBC",
    "EarlyStopping",
    "Framing",
    "InputError",
    "KeepBest",
    "Onestep",
    "Options",
    "Phase",
    "ReBRAC",
    "Report",
    "SfBC",
    "Spec",
    "Transition",
    "check_algorithm",
    "choose",
    "compare",
    "evaluate",
    "export_policy",
    "find_preset",
    "finetune",
    "load_dataset",
    "load_policy",
    "register",
    "resume",
    "sweep",
    "train",
]

# Resolved on first use, so that `tether --help` does not wait for JAX. Names that are not here are algorithms.
_HOMES = {
    "Callback": "tether.runs.callbacks",
    "Dataset": "tether.data",
    "EarlyStopping": "tether.runs.early_stopping",
    "Framing": "tether.data",
    "InputError": "tether.errors",
    "KeepBest": "tether.runs.keep_best",
    "Options": "tether.runs.plan",
    "Phase": "tether.algorithms.interface",
    "Report": "tether.runs.report",
    "Spec": "tether.types",
    "Transition": "tether.types",
    "check_algorithm": "tether.testing",
    "choose": "tether.studies.choose",
    "compare": "tether.studies.start",
    "evaluate": "tether.api",
    "export_policy": "tether.api",
    "find_preset": "tether.presets.recipes",
    "finetune": "tether.api",
    "load_dataset": "tether.data",
    "load_policy": "tether.policies.folder",
    "register": "tether.machine.registry",
    "resume": "tether.api",
    "sweep": "tether.studies.start",
    "train": "tether.api",
}
_MODULES = ("data", "doctor", "environments", "ope", "testing")  # resolved, too: `tether.doctor.check`
_RENAMED = {"Settings": ("Options", "0.3")}  # old name -> new one, and the version that no longer has the old one

if TYPE_CHECKING:
    from tether import data as data
    from tether import doctor as doctor
    from tether import environments as environments
    from tether import ope as ope
    from tether import testing as testing
    from tether.algorithms import (
        ALGORITHMS,
        AWAC,
        AWR,
        BC,
        BCQ,
        BDPO,
        BEAR,
        BRACP,
        BRACV,
        CQL,
        DAC,
        DQL,
        DSRL,
        DT,
        DTQL,
        DTQLKL,
        EDP,
        EQL,
        FQL,
        IDQL,
        IFQL,
        IQL,
        QGPO,
        REM,
        RLPD,
        SAC,
        SQL,
        SRPO,
        TD3BC,
        XQL,
        BDPOUnimodal,
        BestOfN,
        CalQL,
        DiffusionBC,
        Onestep,
        Phase,
        ReBRAC,
        SfBC,
    )
    from tether.api import evaluate, export_policy, finetune, resume, train
    from tether.data import Dataset, Framing, load_dataset
    from tether.errors import InputError
    from tether.machine.registry import register
    from tether.policies.folder import load_policy
    from tether.presets.recipes import find_preset
    from tether.runs.callbacks import Callback
    from tether.runs.early_stopping import EarlyStopping
    from tether.runs.keep_best import KeepBest
    from tether.runs.plan import Options
    from tether.runs.report import Report
    from tether.studies.choose import choose
    from tether.studies.start import compare, sweep
    from tether.testing import check_algorithm
    from tether.types import Spec, Transition


if not TYPE_CHECKING:  # else a misspelt name would be of any type

    def __getattr__(name: str) -> Any:
        if name in _RENAMED:
            from tether.machine.deprecation import warn_deprecated

            new, removed_in = _RENAMED[name]
            warn_deprecated(f"tether.{name}", f"tether.{new}", removed_in)
            name = new
        if name in _MODULES:
            return importlib.import_module(f"tether.{name}")
        if name not in __all__:
            raise AttributeError(f"module 'tether' has no attribute {name!r}{_near(name)}", name=name)
        return getattr(importlib.import_module(_HOMES.get(name, "tether.algorithms")), name)


def __dir__() -> list[str]:
    return sorted({*__all__, *_MODULES, *(name for name in globals() if name.startswith("__"))})


def _near(name: str) -> str:
    """Public names that are spelled like `name`, capitals and underscores aside."""
    import difflib

    plain = {public.lower().replace("_", ""): public for public in __all__}
    found = difflib.get_close_matches(name.lower().replace("_", ""), plain, n=3, cutoff=0.6)
    return f"; did you mean {', '.join(plain[match] for match in found)}?" if found and name[0] != "_" else ""
