"""Open registries: names to things, for the library's own, those that a program registers and those of installed
packages.

    @tether.register("mine")                       # an algorithm
    class Mine(eqx.Module): ...

    @tether.register("myformat", kind="reader")    # then "myformat:NAME" is a data source
    def read(name: str) -> tether.Dataset: ...

A package adds its own without being imported first, by an entry point in the group of the kind:

    [project.entry-points."tether.algorithms"]
    mine = "my_package:Mine"

A name from a file is only looked up here: it is never imported.
"""

import functools
import importlib.metadata
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from tether._version import __version__
from tether.errors import InputError, unknown

__all__ = ["KINDS", "Registry", "distribution_of", "register", "registry"]

T = TypeVar("T")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*")


def _a_class(*methods: str) -> Callable[[Any], str | None]:
    def wrong(thing: Any) -> str | None:
        if not isinstance(thing, type):
            return "is not a class"
        missing = [method for method in methods if not callable(getattr(thing, method, None))]
        return f"has no {', '.join(missing)}" if missing else None

    return wrong


def _callable(thing: Any) -> str | None:
    return None if callable(thing) else "cannot be called"


def _task(thing: Any) -> str | None:
    return (
        None if callable(thing) or hasattr(thing, "gymnasium_id") else "is neither a Task nor a function that makes one"
    )


def _view(thing: Any) -> str | None:
    return None if callable(getattr(thing, "build", None)) else "has no build"


KINDS: Mapping[str, tuple[str, Callable[[Any], str | None]]] = {
    "algorithm": ("tether.algorithms", _a_class("init", "phases", "policy")),
    "reader": ("tether.readers", _callable),
    "reward_transform": ("tether.reward_transforms", _callable),
    "observation_transform": ("tether.observation_transforms", _callable),
    "environment": ("tether.environments", _task),
    "view": ("tether.views", _view),
    "logger": ("tether.loggers", _callable),
    "network": ("tether.networks", _callable),
}
"""Kind -> its group of entry points, and what says why a thing cannot be one."""


class Registry(Mapping[str, T]):
    """Names of one kind. As a mapping it lists all names without importing anybody's package; looking a name up imports
    the package that has it."""

    def __init__(self, kind: str):
        self.kind = kind
        self.group, self._wrong = KINDS[kind]
        self._own: dict[str, T] = {}
        self._registered: dict[str, T] = {}
        self._prepare: Callable[[T], T] = lambda thing: thing

    @property
    def words(self) -> str:
        """The kind as people write it."""
        return self.kind.replace("_", " ")

    def provide(self, own: Mapping[str, T], prepare: Callable[[T], T] | None = None) -> "Registry[T]":
        """The library's own things, by name. prepare: what is done to each thing of this kind, whoever has added it."""
        self._prepare = prepare or self._prepare
        self._own = {name: self._prepare(thing) for name, thing in own.items()}
        self._registered = {name: self._prepare(thing) for name, thing in self._registered.items()}
        return self

    def add(self, name: str, thing: T) -> None:
        """Register `thing`; one of the same name that this program registered before is replaced, so that a cell of a
        notebook may run twice. Raises InputError for a bad name, the library's own names, and what cannot be one."""
        if not NAME.fullmatch(name):
            raise InputError(f"{self.words} name {name!r}: letters, digits and . _ - / after a letter or digit")
        if name in self._own:
            raise InputError(f"{self.words} {name!r} is tether's own; register yours under another name")
        if why := self._wrong(thing):
            raise InputError(f"{self.words} {name!r}: {thing!r} {why}")
        self._registered[name] = self._prepare(thing)

    def find(self, name: str) -> T:
        """Raises InputError for a name that nobody has, with the nearest names."""
        try:
            return self[name]
        except KeyError:
            raise unknown(self.words, name, self) from None

    def origin(self, name: str) -> str | None:
        """The distribution whose entry point has the name, such as `my-package 0.1`; None for the others."""
        if name in self._own or name in self._registered or name not in self._installed:
            return None
        distribution = self._installed[name].dist
        return None if distribution is None else f"{distribution.name} {distribution.version}"

    def is_ours(self, name: str) -> bool:
        """Whether nobody else has registered the name: it is the library's, or nobody's."""
        return name not in self._registered and name not in self._installed

    def is_findable_elsewhere(self, name: str) -> bool:
        """Whether another process finds the name without being told what to import."""
        return name in self._own or (name not in self._registered and name in self._installed)

    def holds(self, name: str, thing: Any) -> bool:
        """Whether `name` is exactly `thing`; nothing is imported for it, as what is in use is imported already."""
        for known in (self._own, self._registered):
            if name in known:
                return known[name] is thing
        entry = self._installed[name]
        module = sys.modules.get(entry.module)
        return module is not None and getattr(module, entry.attr.partition(".")[0], None) is thing

    @property
    def _installed(self) -> Mapping[str, importlib.metadata.EntryPoint]:
        return _entry_points(self.group)

    def __getitem__(self, name: str) -> T:
        for known in (self._own, self._registered):
            if name in known:
                return known[name]
        return self._load(self._installed[name])

    def _load(self, entry: importlib.metadata.EntryPoint) -> T:
        try:
            thing = entry.load()
        except Exception as error:  # whatever somebody else's package meets
            reason = f"{type(error).__name__} {' '.join(str(error).split())}"
            raise InputError(f"{self.words} {entry.name!r} of {entry.value}: cannot be imported: {reason}") from error
        if why := self._wrong(thing):
            raise InputError(f"{self.words} {entry.name!r} of {entry.value}: {why}")
        return self._prepare(thing)

    def __contains__(self, name: object) -> bool:
        return name in self._own or name in self._registered or name in self._installed

    def __iter__(self) -> Iterator[str]:
        return iter({**self._own, **self._registered, **self._installed})

    def __len__(self) -> int:
        return sum(1 for _ in self)


@functools.cache
def registry(kind: str) -> Registry[Any]:
    """The one registry of that kind. Raises InputError for another kind."""
    if kind not in KINDS:
        raise unknown("kind to register", kind, KINDS)
    return Registry(kind)


def register(name: str, kind: str = "algorithm") -> Callable[[T], T]:
    """A decorator that registers a class, function or object under `name`, for this process.

    kind: what it is; its contract is on the page "Extending tether" (docs/extending.md).
        algorithm              a class, `tether.testing.check_algorithm` says what it owes
        reader                 (text after "NAME:") -> Dataset
        reward_transform       (transition table) -> (function of float64 rewards, numbers to record)
        observation_transform  (observations (rows, observation)) -> Normaliser
        environment            a Task, or a function that makes one
        view                   an object with build(view, dataset, rows, table, rewards)
        logger                 (folder, run's config) -> a logger
        network                (key, in_sizes, hidden_sizes, out_size, **how) -> a module of one sample
    Raises InputError for names that are tether's own and for what cannot be of that kind.
    """

    def decorate(thing: T) -> T:
        registry(kind).add(name, thing)
        return thing

    return decorate


@functools.cache
def _entry_points(group: str) -> Mapping[str, importlib.metadata.EntryPoint]:
    """Entry points of installed packages, the first of each name; the library's own names never get here."""
    found: dict[str, importlib.metadata.EntryPoint] = {}
    for entry in importlib.metadata.entry_points(group=group):
        found.setdefault(entry.name, entry)
    return found


def distribution_of(thing: Any) -> str | None:
    """Name and version of the installed distribution that a class or function is from; None where it is from none."""
    top = thing.__module__.partition(".")[0]
    if top == "tether":  # known without reading what all packages hold
        return f"tether-rl {__version__}"
    if top in ("__main__", "builtins"):
        return None
    names = _distributions().get(top)
    return None if not names else f"{names[0]} {importlib.metadata.version(names[0])}"


@functools.cache
def _distributions() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()
