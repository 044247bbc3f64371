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

import contextlib
import dataclasses
import functools
import importlib
import importlib.metadata
import inspect
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from tether._version import __version__
from tether.errors import InputError, reason, unknown

__all__ = ["KINDS", "Registry", "distribution_of", "register", "registry"]

T = TypeVar("T")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*")
LIBRARY = str(Path(__file__).parents[1])


def _algorithm(thing: Any) -> str | None:
    if not isinstance(thing, type):
        return "is not a class"
    if missing := [name for name in ("init", "phases", "policy") if not callable(getattr(thing, name, None))]:
        return f"has no {', '.join(missing)}"
    if not dataclasses.is_dataclass(thing):
        return "is no equinox.Module, nor another dataclass: its fields are the hyper-parameters"
    _, *parameters = inspect.signature(thing.__init__).parameters.values()
    needed = [
        each.name
        for each in parameters
        if each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    ]
    return f"has no default for {', '.join(needed)}: every hyper-parameter needs one" if needed else None


def _callable(thing: Any) -> str | None:
    return None if callable(thing) else "cannot be called"


def _task(thing: Any) -> str | None:
    return (
        None if callable(thing) or hasattr(thing, "gymnasium_id") else "is neither a Task nor a function that makes one"
    )


def _view(thing: Any) -> str | None:
    missing = [name for name in ("build", "table", "describe") if not callable(getattr(thing, name, None))]
    return f"has no {', '.join(missing)}: register a tether.data.views.ViewKind" if missing else None


class Kind(NamedTuple):
    """One kind of things that have names."""

    group: str  # of entry points
    wrong: Callable[[Any], str | None]  # why a thing cannot be one
    home: str  # the module that provides the library's own


KINDS: Mapping[str, Kind] = {
    "algorithm": Kind("tether.algorithms", _algorithm, "tether.algorithms.registry"),
    "reader": Kind("tether.readers", _callable, "tether.data.sources"),
    "reward_transform": Kind("tether.reward_transforms", _callable, "tether.data.transforms"),
    "observation_transform": Kind("tether.observation_transforms", _callable, "tether.data.transforms"),
    "environment": Kind("tether.environments", _task, "tether.environments.tasks"),
    "view": Kind("tether.views", _view, "tether.data.views"),
    "logger": Kind("tether.loggers", _callable, "tether.runs.loggers"),
    "network": Kind("tether.networks", _callable, "tether.networks.factories"),
}


@contextlib.contextmanager
def _blamed(what: str) -> Iterator[None]:
    """Around a call of somebody else's code: whatever it raises is an InputError that begins with `what`."""
    try:
        yield
    except InputError:
        raise  # it says itself what is wrong
    except (Exception, SystemExit) as error:
        theirs = [each for each in traceback.extract_tb(error.__traceback__) if not each.filename.startswith(LIBRARY)]
        place = f" ({Path(theirs[0].filename).name} line {theirs[0].lineno})" if theirs else ""
        raise InputError(f"{what}: {reason(error)}{place}") from error


class Registry(Mapping[str, T]):
    """Names of one kind. As a mapping it lists all names without importing anybody's package; looking a name up imports
    the package that has it."""

    def __init__(self, kind: str):
        self.kind = kind
        self.group, self._wrong, self._home = KINDS[kind]
        self._own: dict[str, T] = {}
        self._reserved: Callable[[str], bool] = lambda name: False
        self._registered: dict[str, T] = {}
        self._prepare: Callable[[T], T] = lambda thing: thing

    @property
    def words(self) -> str:
        """The kind as people write it."""
        return self.kind.replace("_", " ")

    def provide(
        self,
        own: Mapping[str, T],
        prepare: Callable[[T], T] | None = None,
        reserved: Callable[[str], bool] | None = None,
    ) -> "Registry[T]":
        """The library's own things, by name. prepare: what is done to each thing of this kind, whoever has added it.
        reserved: whether a name that is not among them is the library's, too."""
        self._prepare, self._reserved = prepare or self._prepare, reserved or self._reserved
        self._own = {name: self._prepare(thing) for name, thing in own.items()}
        return self

    def add(self, name: str, thing: T) -> None:
        """Register `thing`; one of the same name that this program registered before is replaced, so that a cell of a
        notebook may run twice. Raises InputError for a bad name, the library's own names, and what cannot be one."""
        importlib.import_module(self._home)  # a plug-in may be there first: the names are known then
        if not NAME.fullmatch(name):
            raise InputError(f"{self.words} name {name!r}: letters, digits and . _ - / after a letter or digit")
        if self._is_own(name):
            raise InputError(f"{self.words} {name!r} is tether's own; register yours under another name")
        if why := self._wrong(thing):
            raise InputError(f"{self.words} {name!r}: {thing!r} {why}")
        self._registered[name] = self._prepare(thing)

    def guard(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Around a call of what has that name: whatever somebody else's raises is an InputError that names it."""
        return contextlib.nullcontext() if name in self._own else _blamed(f"{self.words} {name!r}")

    def call(self, name: str, *arguments: Any, **keywords: Any) -> Any:
        """What the thing of that name gives, called so. Raises InputError as `find`, and as `guard` has it."""
        thing: Any = self.find(name)
        with self.guard(name):
            return thing(*arguments, **keywords)

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
        distribution = self._entry(name).dist
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
        return any(_named(entry) is thing for entry in self._installed[name])

    def _is_own(self, name: str) -> bool:
        return name in self._own or self._reserved(name)

    @property
    def _installed(self) -> Mapping[str, tuple[importlib.metadata.EntryPoint, ...]]:
        """The entry points of each name; several where packages share it."""
        found = _entry_points(self.group)
        for name in filter(self._is_own, found):
            others = " and ".join(map(_described, found[name]))
            warnings.warn(f"{self.words} {name!r} of {others} is not used: the name is tether's own", stacklevel=2)
        return {name: entries for name, entries in found.items() if not self._is_own(name)}

    def _entry(self, name: str) -> importlib.metadata.EntryPoint:
        """Raises InputError where packages share the name."""
        entries = self._installed[name]
        if len({entry.value for entry in entries}) > 1:
            shared = " and ".join(map(_described, entries))
            raise InputError(f"{self.words} {name!r}: {shared} have the same name; uninstall one of them")
        return entries[0]

    def __getitem__(self, name: str) -> T:
        for known in (self._own, self._registered):
            if name in known:
                return known[name]
        return self._load(self._entry(name))

    def _load(self, entry: importlib.metadata.EntryPoint) -> T:
        try:
            thing = entry.load()
        except (Exception, SystemExit) as error:  # whatever somebody else's package meets
            what = f"{self.words} {entry.name!r} of {entry.value}: cannot be imported"
            raise InputError(f"{what}: {reason(error)}") from error
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
        algorithm              a class, `tether.check_algorithm` says what it owes
        reader                 (text after "NAME:") -> Dataset
        reward_transform       (transition table) -> (function of float64 rewards, numbers to record)
        observation_transform  (observations (rows, observation)) -> Normaliser
        environment            a Task, or a function that makes one
        view                   a `tether.data.views.ViewKind`
        logger                 (folder, run's config) -> a logger
        network                (key, in_sizes, hidden_sizes, out_size, **how) -> a module of one sample
    Raises InputError for names that are tether's own and for what cannot be of that kind.
    """

    def decorate(thing: T) -> T:
        registry(kind).add(name, thing)
        return thing

    return decorate


@functools.cache
def _entry_points(group: str) -> Mapping[str, tuple[importlib.metadata.EntryPoint, ...]]:
    """Entry points of installed packages, by name."""
    found: dict[str, tuple[importlib.metadata.EntryPoint, ...]] = {}
    for entry in importlib.metadata.entry_points(group=group):
        found[entry.name] = (*found.get(entry.name, ()), entry)
    return found


def _described(entry: importlib.metadata.EntryPoint) -> str:
    return entry.value if entry.dist is None else f"{entry.dist.name} {entry.dist.version} ({entry.value})"


def _named(entry: importlib.metadata.EntryPoint) -> Any:
    """What an entry point means, where its module is imported already; else None. Without `:name` it is the module."""
    module, _, names = entry.value.partition(":")
    thing = sys.modules.get(module.strip())
    for name in filter(None, names.partition("[")[0].strip().split(".")):
        thing = getattr(thing, name, None)
    return thing


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
