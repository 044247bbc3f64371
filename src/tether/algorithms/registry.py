"""Names to algorithms, and hyper-parameters from text: what the rest of the library asks of an algorithm's class."""

import contextlib
import dataclasses
import functools
import json
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from tether import errors
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
from tether.algorithms.callables import callables_of, how_to_import, is_callable, read_callable, spelling
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
from tether.algorithms.iql import IQL
from tether.algorithms.ivr import EQL, SQL
from tether.algorithms.onestep import Onestep
from tether.algorithms.qgpo import QGPO
from tether.algorithms.rebrac import ReBRAC
from tether.algorithms.rem import REM
from tether.algorithms.rlpd import RLPD
from tether.algorithms.sac import SAC
from tether.algorithms.sfbc import SfBC
from tether.algorithms.srpo import SRPO
from tether.algorithms.td3_bc import TD3BC
from tether.algorithms.xql import XQL
from tether.errors import InputError
from tether.machine.files import to_json
from tether.machine.keywords import explain_keywords
from tether.machine.registry import Registry, distribution_of, registry
from tether.ranges import describe

T = TypeVar("T")

__all__ = [
    "ALGORITHMS",
    "FAMILIES",
    "acting_fields",
    "change_acting",
    "check_recorded",
    "field_names",
    "hyperparameters_of",
    "make_algorithm",
    "name_of",
    "numeric_fields",
    "origin_of",
    "parse_fields",
    "parse_values",
    "recover_algorithm",
    "recover_class",
]


ALGORITHMS: Registry[type] = registry("algorithm").provide(
    {
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
        "best-of-n": BestOfN,
        "dsrl": DSRL,
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
        "cal-ql": CalQL,
        "rem": REM,
        "sac": SAC,
        "rlpd": RLPD,
    },
    prepare=functools.partial(explain_keywords, what="hyper-parameter"),
)
"""Name -> class, of the library and of whoever registered one (`tether.register`)."""

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
        "best-of-n",
        "dsrl",
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
        "cal-ql",
        "rem",
        "sac",
        "rlpd",
    ),
}
"""What keeps the policy near the data -> the algorithms that do it so."""


def acting_fields(algorithm: Any) -> list[str]:
    """Names of the hyper-parameters that only the policy reads: those that may change once it is trained."""
    return [field.name for field in dataclasses.fields(algorithm) if field.metadata.get("acting", False)]


def name_of(algorithm: Any) -> str:
    """The name under which exactly this class, or this object's class, is registered; else the class's own."""
    cls = algorithm if isinstance(algorithm, type) else type(algorithm)
    own = (name for name in ALGORITHMS if ALGORITHMS.holds(name, cls))
    return next(own, cls.__qualname__)


def origin_of(cls: type) -> dict[str, str | None]:
    """Where a class comes from, for the records of runs and policies: `module:Class`, and the distribution that holds
    the module, such as `my-package 0.1`; None where it is in none."""
    return {"algorithm_class": f"{cls.__module__}:{cls.__qualname__}", "algorithm_distribution": distribution_of(cls)}


def recover_class(record: Mapping[str, Any], given: Any) -> type:
    """The class that a run's or policy's record speaks of: `given`, or the registered one of that name.

    record: its "algorithm" and, since tether 0.2, "algorithm_class" and "algorithm_distribution".
    given: what the user has, a class or an instance of it; None: look it up.
    Raises InputError if the class is not registered here or is another one. Nothing is imported.
    """
    name, recorded = str(record["algorithm"]), record.get("algorithm_class")
    if given is not None:
        cls = given if isinstance(given, type) else type(given)
        written = str(recorded).rpartition(":")[2] if recorded else name
        if written not in (cls.__qualname__, name_of(cls)):
            raise InputError(f"made by {recorded or name}, not by {cls.__module__}:{cls.__qualname__}")
        return cls
    if name in ALGORITHMS:
        cls = ALGORITHMS[name]
        if recorded is None or _same(recorded, cls):
            return cls
    if recorded is None or str(recorded).startswith("tether."):  # tether 0.1 knew its own algorithms only
        raise errors.unknown("algorithm", name, ALGORITHMS)
    module, _, short = str(recorded).rpartition(":")
    distribution = record.get("algorithm_distribution")
    origin = f"{recorded} of {distribution}" if distribution else recorded
    way = how_to_import(module, f"algorithm={short}", distribution)
    raise InputError(f"made by {origin}, which is not registered here; {way}")


def recover_algorithm(record: Mapping[str, Any], given: Any) -> Any:
    """The algorithm, with its hyper-parameters, that a run's or policy's record speaks of.

    given: as of `recover_class`; an instance also lends the callables that it carries, such as a network's factory.
    Raises InputError as `recover_class` and `make_algorithm`.
    """
    cls = recover_class(record, given)
    carried = {} if given is None or isinstance(given, type) else callables_of(given)
    return make_algorithm(cls, record["hyperparameters"], carried)


def _same(recorded: str, cls: type) -> bool:
    """Whether the class is the recorded one; the library's own may have moved."""
    own = "tether."
    if recorded.startswith(own) or cls.__module__.startswith(own):
        return recorded.startswith(own) and cls.__module__.startswith(own)
    return recorded == f"{cls.__module__}:{cls.__qualname__}" or recorded.startswith("__main__:")


def change_acting(algorithm: T, changes: Mapping[str, Any]) -> T:
    """The algorithm with other values of acting hyper-parameters, given as text or numbers.

    Raises InputError for one that training depends on, one that does not exist, or a value of the wrong kind.
    """
    acting = acting_fields(algorithm)
    if unknown := [name for name in changes if name not in field_names(type(algorithm)) and acting]:
        raise errors.unknown(f"hyper-parameter of a trained {name_of(algorithm)}", unknown[0], acting)
    values = parse_fields(type(algorithm), changes)
    if refused := [field for field in values if field not in acting]:
        allowed = f"only {', '.join(acting)} may change" if acting else f"of {name_of(algorithm)} nothing may change"
        raise InputError(f"{refused[0]!r} was trained with: on a trained policy {allowed}")
    return dataclasses.replace(algorithm, **values)  # pyright: ignore[reportArgumentType, reportCallIssue]


def make_algorithm(
    which: str | type, hyperparameters: Mapping[str, Any], carried: Mapping[str, Any] = types.MappingProxyType({})
) -> Any:
    """An algorithm, by its registered name or its class, with these hyper-parameters as text or TOML/JSON values.

    carried: callables by name of field, for hyper-parameters that stand in records as `module:name`.
    Raises InputError for an unknown algorithm, and as `parse_fields`.
    """
    cls = ALGORITHMS.find(which) if isinstance(which, str) else which
    return cls(**parse_fields(cls, hyperparameters, carried))


def numeric_fields(algorithm: Any) -> list[str]:
    """Names of the hyper-parameters that are leaves: those that can be swept over lanes."""
    return [field.name for field in dataclasses.fields(algorithm) if not field.metadata.get("static", False)]


def parse_fields(
    cls: type, assignments: Mapping[str, Any], carried: Mapping[str, Any] = types.MappingProxyType({})
) -> dict[str, Any]:
    """Hyper-parameters of the class from text or TOML/JSON values, checked against its fields.

    carried: as of `make_algorithm`.
    Raises InputError for an unknown name (nearest ones offered) or a value of the wrong kind.
    """
    hints = typing.get_type_hints(cls)  # of class attributes, too
    kinds = {name: hints[name] for name in field_names(cls)} | dict.fromkeys(numeric_fields(cls), float)
    fields = {field.name: field for field in dataclasses.fields(cls) if is_callable(field)}
    plain = {name: value for name, value in assignments.items() if name not in fields}
    called = {name: value for name, value in assignments.items() if name in fields}
    parsed = parse_values(f"hyper-parameter of {name_of(cls)}", kinds, plain)
    return parsed | {name: read_callable(fields[name], value, carried.get(name)) for name, value in called.items()}


def parse_values(what: str, kinds: Mapping[str, Any], assignments: Mapping[str, Any]) -> dict[str, Any]:
    """`assignments` as the types `kinds` (name -> annotation); raises InputError like `parse_fields`."""
    parsed = {}
    for name, value in assignments.items():
        if name not in kinds:
            raise errors.unknown(what, name, kinds)
        try:
            parsed[name] = _parse(kinds[name], value)
        except (TypeError, ValueError, KeyError, OverflowError):
            raise InputError(f"{name}={errors.shortened(repr(value))}: expected {describe(kinds[name])}") from None
    return parsed


def field_names(algorithm: Any) -> list[str]:
    """Every hyper-parameter's name; of an instance or a class."""
    return [field.name for field in dataclasses.fields(algorithm)]


def hyperparameters_of(algorithm: Any) -> dict[str, Any]:
    """Every hyper-parameter by name, as JSON-able values: a callable as `module:name`, which nobody imports for it."""
    values = {name: getattr(algorithm, name) for name in field_names(algorithm)}
    return {name: spelling(value) if callable(value) else value for name, value in values.items()}


def check_recorded(algorithm: Any) -> None:
    """InputError where records do not give the algorithm back: what it trains could be neither loaded nor resumed."""
    cls = type(algorithm)
    lost = f"{name_of(cls)} cannot be recorded, so that nobody could load or resume what it trains"
    try:
        record = json.loads(to_json(hyperparameters_of(algorithm)))
        again = make_algorithm(cls, record, callables_of(algorithm))
    except (TypeError, ValueError, NameError) as error:  # NameError: of annotations that are not to be found
        raise InputError(f"{lost}: {' '.join(str(error).split())}") from None
    for name in field_names(cls):
        value, found = getattr(algorithm, name), getattr(again, name)
        if not bool(value == found):
            values = f"{errors.shortened(repr(value))} comes back as {errors.shortened(repr(found))}"
            raise InputError(f"{lost}: {name}={values}; annotate it with the type that its values have")


def _parse(kind: Any, value: Any) -> Any:
    """`value` as `kind`, where text stands for the value it spells."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        if value not in arguments:
            raise ValueError(value)
        return value
    if origin in (types.UnionType, typing.Union):  # int | None
        return _parse_union(arguments, value)
    if kind is tuple or origin is tuple:
        return _parse_tuple(arguments or (Any, ...), value)
    if kind is Any or kind is object:
        return _hashable(value)
    if kind is str:
        return str(value)
    if kind is bool:
        words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
        return value if isinstance(value, bool) else words[str(value).lower()]
    if isinstance(value, bool):  # True is no 1
        raise ValueError(value)
    number = float(value)
    if kind is int:
        if number != int(number):
            raise ValueError(value)
        return int(number)
    if not math.isfinite(number):
        raise ValueError(value)
    return number


def _parse_union(kinds: tuple[Any, ...], value: Any) -> Any:
    """As the first kind that takes the value; what is of a kind already comes first, text, which takes all, last."""
    if types.NoneType in kinds and value in (None, "none", "None"):
        return None
    kinds = tuple(kind for kind in kinds if kind is not types.NoneType)
    if not isinstance(value, str) and type(value) in kinds:
        return value
    for kind in sorted(kinds, key=lambda kind: kind in (str, Any, object)):
        with contextlib.suppress(TypeError, ValueError, KeyError, OverflowError):
            return _parse(kind, value)
    raise ValueError(value)


def _parse_tuple(kinds: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
    """Entry by entry: all of one kind, (int, ...), or each of its own, (int, str)."""
    if value == "":
        raise ValueError(value)
    if isinstance(value, str):
        parts = [part.strip() for part in value.strip("()[] ").split(",") if part.strip()]
        kinds = tuple(int | float | str if kind in (Any, object) else kind for kind in kinds)  # a record has the values
    else:
        parts = list(value)
    each = kinds[:1] * len(parts) if kinds[1:] == (Ellipsis,) else kinds
    return tuple(_parse(kind, part) for kind, part in zip(each, parts, strict=True))


def _hashable(value: Any) -> Any:
    """A value of any kind; JSON's lists are tuples, as what is static is hashed."""
    return tuple(map(_hashable, value)) if isinstance(value, list | tuple) else value
