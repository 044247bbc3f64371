"""Programs that are not traced twice: kept on disk as JAX exports them, beside JAX's own cache of compiled ones.

That cache spares the compiler's work, but finding a program in it takes tracing and lowering it first, which is most of
what is left of a start. What is kept here is the lowered program (`jax.export`), under a key that needs no tracing:
the sources of tether, the versions of what they call, JAX's settings, the algorithm's structural hyper-parameters, and
shapes. Every start, the first one too, runs what it read from there, so that all compile the same program. Whatever is
wrong with a file, a folder or an export, the program is traced as if nothing were kept.
"""

import contextlib
import dataclasses
import functools
import hashlib
import os
import platform
import re
import time
from collections.abc import Callable, Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
from jax import export

from tether import _version
from tether.machine.files import atomic_write_bytes
from tether.machine.registry import registry

__all__ = ["KeptProgram", "keep_programs_in", "kept_program"]

FORMAT_VERSION = 2
DECIDING = ("jax", "jaxlib", "equinox", "optax", "numpy")
UNUSED_DAYS = 30  # after which a file goes
DIGEST_BYTES = 32
KNOWN = (
    "tether",
    "jax",
    "jaxlib",
    "equinox",
    "optax",
    "numpy",
    "builtins",
)  # packages whose sources or versions it has

# Custom calls may mean something else in another version of jaxlib; that is in the key.
ANYTHING = export.DisabledSafetyCheck.custom_call("ALL")

_folder: Path | None = None


def keep_programs_in(folder: Path | None) -> None:
    """From here on programs are kept in `folder`, which need not exist; None: nowhere."""
    global _folder  # of the process, as JAX's own cache is
    _folder = folder


class KeptProgram:
    """A compiled program of a flat list of arrays, called with a tree of them."""

    def __init__(self, compiled: Any, structure: Any, result: Any):
        """structure, result: of the arguments, and of the first of the two things that come out."""
        self._compiled, self._structure, self._result = compiled, structure, result

    def __call__(self, arguments: Any) -> Any:
        """What the function gives for these arguments. Raises ValueError for a tree of another structure."""
        leaves, structure = jax.tree.flatten(arguments)
        if structure != self._structure:
            raise ValueError("the program was compiled for other arguments")
        tree, named = self._compiled(*leaves)
        return jax.tree.unflatten(self._result, tree), named

    def memory_analysis(self) -> Any:
        """The same analysis as a compiled JAX program gives."""
        return self._compiled.memory_analysis()


def kept_program(
    function: Callable[[Any], tuple[Any, Mapping[str, Any]]],
    arguments: Any,
    algorithm: Any,
    about: Mapping[str, Any],
    result: Callable[[], Any],
) -> KeptProgram | None:
    """`function(arguments)` compiled, traced only if it never was; None where programs are not kept.

    function: gives a tree of arrays, of the structure `result()`, and a dictionary of arrays.
    algorithm, about: what decides, beside the shapes of the arguments, what the function does; of the algorithm its
        class and structural fields.
    """
    folder = _folder
    leaves, structure = jax.tree.flatten(arguments)
    if folder is None or not (_is_known(algorithm) and _is_made_of_known(structure)):
        return None
    path = folder / f"{_key(algorithm, about, leaves, structure)}.program"
    try:
        if (exported := _read(path)) is None:
            _write(path, _export(function, leaves, structure))
            exported = _read(path)
        if exported is None:
            return None
        compiled = jax.jit(exported.call).lower(*leaves).compile()
        return KeptProgram(compiled, structure, result())
    except Exception:  # whatever it is (a full disk, what cannot be exported): the program is traced as ever
        return None


def _export(function: Callable[[Any], Any], leaves: list[Any], structure: Any) -> export.Exported:
    """Trace and lower, as a function of flat lists: no class of ours is in the file."""

    def flat(*leaves: Any) -> Any:
        tree, named = function(jax.tree.unflatten(structure, leaves))
        return jax.tree.leaves(tree), dict(named)

    return export.export(jax.jit(flat), disabled_checks=[ANYTHING])(*_shapes(leaves))


def _shapes(leaves: list[Any]) -> list[jax.ShapeDtypeStruct]:
    return [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]


# --- whose code it is: others' sources are in no key ---


def _is_known(algorithm: Any) -> bool:
    """Whether the algorithm's class and all that its fields hold or name are of the packages that the key knows."""
    if not _is_ours(type(algorithm)):
        return False
    for field in dataclasses.fields(algorithm):
        value, kind = getattr(algorithm, field.name), field.metadata.get("registry")
        if callable(value) and not _is_ours(value):
            return False
        parts = value.split("+") if kind and isinstance(value, str) else ()
        if kind and not all(registry(kind).is_ours(part.partition("=")[0]) for part in parts):
            return False
    return True


def _is_made_of_known(structure: Any) -> bool:
    """The same of a tree's nodes, such as networks and what a view made of the data."""
    kind = structure.node_data()
    return (kind is None or _is_ours(kind[0])) and all(map(_is_made_of_known, structure.children()))


def _is_ours(thing: Any) -> bool:
    return getattr(thing, "__module__", type(thing).__module__).partition(".")[0] in KNOWN


# --- files --------------------------------------------------------------------------------------------------


def _key(algorithm: Any, about: Mapping[str, Any], leaves: Iterable[Any], structure: Any) -> str:
    """64 hexadecimal digits for all that decides the lowered program."""
    settings = {name: value for name, value in jax.config.values.items() if "cache" not in name and "dump" not in name}
    static = [field.name for field in dataclasses.fields(algorithm) if field.metadata.get("static", False)]
    fields = {name: getattr(algorithm, name) for name in static}
    parts = [
        *(FORMAT_VERSION, _sources(), platform.python_version(), [metadata.version(name) for name in DECIDING]),
        *(jax.default_backend(), jax.devices()[0].device_kind, sorted(settings.items(), key=str)),
        *(type(algorithm).__qualname__, fields, sorted(about.items(), key=str)),
        [(leaf.shape, str(leaf.dtype)) for leaf in leaves],
        re.sub(r" at 0x[0-9a-f]+", "", str(structure)),  # functions are named with their address
    ]
    return hashlib.sha256(repr(parts).encode()).hexdigest()


@functools.cache
def _sources() -> str:
    """A hash of every module of tether."""
    root, digest = Path(_version.__file__).parent, hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def _read(path: Path) -> export.Exported | None:
    """What is in a file: a SHA-256 and what it is of; None where there is none, or not a whole one."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, program = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
    if digest != hashlib.sha256(program).digest():
        return None
    with contextlib.suppress(OSError):
        os.utime(path)  # it is in use
    return export.deserialize(bytearray(program))


def _write(path: Path, exported: export.Exported) -> None:
    """Keep a program, and drop those that nobody has used for long. Raises: OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    program = bytes(exported.serialize())
    atomic_write_bytes(path, hashlib.sha256(program).digest() + program)
    oldest = time.time() - UNUSED_DAYS * 86_400
    for other in path.parent.glob("*.program"):
        with contextlib.suppress(OSError):  # another process may be as quick
            if other.stat().st_mtime < oldest:
                other.unlink()
