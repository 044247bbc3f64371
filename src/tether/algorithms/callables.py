"""Hyper-parameters that are callables: the factories of networks, and whatever else a class has one in by default.

In a record they stand by the name under which they are registered, else as `module:name`. Such a name is compared with
what is at hand, never imported.
"""

import dataclasses
from typing import Any

from tether.errors import InputError
from tether.networks import NETWORKS, find_network
from tether.networks.distributions import HL_GAUSS, QUANTILE
from tether.networks.factories import has_unknown_range, is_distributional, with_range

__all__ = [
    "callables_of",
    "check_networks",
    "how_to_import",
    "is_callable",
    "networks_of",
    "origin",
    "read_callable",
    "spelling",
    "values_beyond_bins",
    "with_value_range",
    "without_value_range",
]


def is_callable(field: dataclasses.Field) -> bool:
    """Whether a hyper-parameter may be a callable."""
    return _is_network(field) or callable(field.default)


def _is_network(field: dataclasses.Field) -> bool:
    return field.metadata.get("registry") == NETWORKS.kind


def callables_of(algorithm: Any) -> dict[str, Any]:
    """The hyper-parameters that are callables, by name."""
    values = {field.name: getattr(algorithm, field.name) for field in dataclasses.fields(algorithm)}
    return {name: value for name, value in values.items() if callable(value)}


def check_networks(algorithm: Any) -> None:
    """InputError for a network that nobody has registered."""
    for field in dataclasses.fields(algorithm):
        if not _is_network(field):
            continue
        network = getattr(algorithm, field.name)
        find_network(network)
        if field.metadata.get("scalar") and is_distributional(network):
            raise InputError(f"{field.name} {network!r}: {type(algorithm).__name__} has no loss for distributions here")


def without_value_range(algorithm: Any) -> list[str]:
    """The hyper-parameters whose networks have bins, of which nobody has said yet where they lie."""
    networks = [field.name for field in dataclasses.fields(algorithm) if _is_network(field)]
    return [name for name in networks if has_unknown_range(getattr(algorithm, name))]


def values_beyond_bins(algorithm: Any) -> list[str]:
    """A line for each network whose bins will lie around the data's returns though its targets may lie elsewhere."""
    lines, reasons = [], {field.name: field.metadata.get("beyond") for field in dataclasses.fields(algorithm)}
    for name in without_value_range(algorithm):
        if reason := reasons[name]:
            lines.append(
                f"{name} {getattr(algorithm, name)}: its bins lie around the data's returns, but in "
                f"{type(algorithm).__name__} {reason}; what leaves the bins counts as their ends: "
                f"{HL_GAUSS}=LOW,HIGH places them, {QUANTILE} has none"
            )
    return lines


def with_value_range(algorithm: Any, low: float = 0.0, high: float = 1.0) -> Any:
    """The algorithm with these bins there. By default any: what an update costs does not depend on where they lie."""
    ranged = {name: with_range(getattr(algorithm, name), low, high) for name in without_value_range(algorithm)}
    return dataclasses.replace(algorithm, **ranged) if ranged else algorithm


def networks_of(algorithm: Any) -> list[Any]:
    """The factories that this program has registered and the algorithm names."""
    chosen = [getattr(algorithm, field.name) for field in dataclasses.fields(algorithm) if _is_network(field)]
    names = {part for network in chosen if isinstance(network, str) for part in network.split("+")}
    return [NETWORKS[name] for name in sorted(names) if name in NETWORKS and not NETWORKS.is_findable_elsewhere(name)]


def spelling(thing: Any) -> str:
    """A callable in a record: the name under which it is registered as a network, else `module:name`."""
    own = (name for name in NETWORKS if NETWORKS.holds(name, thing))
    return next(own, None) or origin(thing)


def origin(thing: Any) -> str:
    """`module:name`; of an object that can be called, that of its class."""
    named = thing if hasattr(thing, "__qualname__") else type(thing)
    return f"{named.__module__}:{named.__qualname__}"


def read_callable(field: dataclasses.Field, value: Any, carried: Any = None) -> Any:
    """What `value`, of a record or a command line, stands for: a network's name, or the callable that is spelled so.

    It is `carried`, the field's default, or a registered network; else InputError says what to import.
    """
    if not isinstance(value, str):
        return value
    for thing in (carried, field.default):
        if callable(thing) and spelling(thing) == value:
            return thing
    module, colon, short = value.rpartition(":")
    if _is_network(field) and not colon:
        find_network(value)
        return value
    if _is_network(field):
        for name in NETWORKS:
            if not NETWORKS.is_findable_elsewhere(name) and origin(NETWORKS[name]) == value:
                return name
    way = how_to_import(module, f"an instance with {field.name}={short} as `algorithm`")
    raise InputError(f"{field.name} {value!r}: is not registered here; {way}")


def how_to_import(module: str, argument: str, distribution: str | None = None) -> str:
    """What to do about a name in a record that nobody registered; nothing but what the user names is imported.

    distribution: the installed package that it came from.
    """
    if module == "__main__":
        return f"it was defined in a script or notebook: define it again and pass {argument} from Python"
    install = f"install {distribution}, or " if distribution else ""
    return f"{install}import it: --plugin {module} (if it registers itself), or pass {argument} from Python"
