"""Programs that are not traced twice: kept on disk as JAX exports them, beside JAX's own cache of compiled ones.

That cache spares the compiler's work, but finding a program in it takes tracing and lowering it first, which is most of
what is left of a start. What is kept here is the lowered program (StableHLO), under a key that needs no tracing: the
sources of tether, the versions of what they call, JAX's settings, the algorithm's structural hyper-parameters, and
shapes. Every start, the first one too, runs what it read from there, so that all compile the same program. Whatever is
wrong with a file, a folder or an export, the program is traced as if nothing were kept.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import platform
import re
import time
from collections.abc import Callable, Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import export

import tether
from tether.files import atomic_write_bytes

__all__ = ["KeptProgram", "keep_programs_in", "kept_program"]

FORMAT_VERSION = 1
DECIDING = ("jax", "jaxlib", "equinox", "optax", "numpy")
UNUSED_DAYS = 30  # after which a file goes

# Custom calls may mean something else in another version of jaxlib; that is in the key.
ANYTHING = export.DisabledSafetyCheck.custom_call("ALL")

_folder: Path | None = None


class _Kept(NamedTuple):
    """What a file holds."""

    module: bytes  # StableHLO
    names: tuple[str, ...]  # of the arrays that come last
    used: tuple[int, ...]  # which of the arguments the module has
    outputs: tuple[tuple[tuple[int, ...], str], ...]  # shape and dtype of each


def keep_programs_in(folder: Path | None) -> None:
    """From here on programs are kept in `folder`, which need not exist; None: nowhere."""
    global _folder  # of the process, as JAX's own cache is
    _folder = folder


class KeptProgram:
    """A compiled program of a flat list of arrays, called with a tree of them."""

    def __init__(self, compiled: Any, structure: Any, result: Any):
        """structure, result: of the arguments and of what comes out."""
        self._compiled, self._structure, self._result = compiled, structure, result

    def __call__(self, arguments: Any) -> Any:
        """What the function gives for these arguments. Raises ValueError for a tree of another structure."""
        leaves, structure = jax.tree.flatten(arguments)
        if structure != self._structure:
            raise ValueError("the program was compiled for other arguments")
        return jax.tree.unflatten(self._result, self._compiled(*leaves))

    def memory_analysis(self) -> Any:
        """As of a compiled program of JAX."""
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
    if folder is None or not type(algorithm).__module__.startswith("tether."):  # others' sources are in no key
        return None
    leaves, structure = jax.tree.flatten(arguments)
    path = folder / f"{_key(algorithm, about, leaves, structure)}.program"
    try:
        kept = _read(path)
        if kept is None:
            _write(path, _export(function, leaves, structure))
            kept = _read(path)
        if kept is None:
            return None
        program = jax.jit(functools.partial(_call, _restore(kept, leaves).call))
        compiled = program.lower(*leaves).compile()
        names = dict.fromkeys(kept.names, 0)
        return KeptProgram(compiled, structure, jax.tree.structure((_placeholders(result()), names)))
    except Exception:  # whatever it is (a full disk, what cannot be exported): the program is traced as ever
        return None


def _call(exported: Callable[..., Any], *leaves: Any) -> Any:
    return exported(*leaves)


def _placeholders(structure: Any) -> Any:
    return jax.tree.unflatten(structure, [0] * structure.num_leaves)


def _export(function: Callable[[Any], Any], leaves: list[Any], structure: Any) -> _Kept:
    """Trace and lower, as a function of flat lists; the dictionary's arrays come last."""
    names: list[str] = []

    def flat(*leaves: Any) -> list[Any]:
        tree, named = function(jax.tree.unflatten(structure, leaves))
        names[:] = sorted(named)
        return [*jax.tree.leaves(tree), *(named[name] for name in names)]

    exported = export.export(jax.jit(flat), disabled_checks=[ANYTHING])(*_shapes(leaves))
    outputs = tuple((aval.shape, str(aval.dtype)) for aval in exported.out_avals)
    used = tuple(exported.module_kept_var_idx)
    return _Kept(exported.mlir_module_serialized, tuple(names), used, outputs)


def _restore(kept: _Kept, leaves: list[Any]) -> export.Exported:
    """What `_export` made. JAX's own way to write it to a file needs another package, so that only the lowered text is
    kept: it takes the place of that of a program with the same arguments and results."""

    def nothing(*leaves: Any) -> list[Any]:
        return [jnp.zeros(shape, dtype) for shape, dtype in kept.outputs]

    like = export.export(jax.jit(nothing), disabled_checks=[ANYTHING])(*_shapes(leaves))
    return dataclasses.replace(like, mlir_module_serialized=kept.module, module_kept_var_idx=kept.used)


def _shapes(leaves: list[Any]) -> list[jax.ShapeDtypeStruct]:
    return [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]


# --- files --------------------------------------------------------------------------------------------------


def _key(algorithm: Any, about: Mapping[str, Any], leaves: Iterable[Any], structure: Any) -> str:
    """64 hexadecimal digits for all that decides the lowered program."""
    settings = {name: value for name, value in jax.config.values.items() if "cache" not in name and "dump" not in name}
    fields = {
        field.name: getattr(algorithm, field.name)
        for field in dataclasses.fields(algorithm)
        if field.metadata.get("static", False)
    }
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
    root, digest = Path(tether.__file__).parent, hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def _read(path: Path) -> _Kept | None:
    """What is in a file; None where there is none, or not a whole one."""
    try:
        header, module = path.read_bytes().split(b"\n", 1)
        stated = json.loads(header)
        if stated["sha256"] != hashlib.sha256(module).hexdigest():
            return None
        outputs = tuple((tuple(shape), dtype) for shape, dtype in stated["outputs"])
        kept = _Kept(module, tuple(stated["names"]), tuple(stated["used"]), outputs)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    with contextlib.suppress(OSError):
        os.utime(path)  # it is in use
    return kept


def _write(path: Path, kept: _Kept) -> None:
    """Keep a program, and drop those that nobody has used for long. Raises: OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = {"sha256": hashlib.sha256(kept.module).hexdigest(), "names": kept.names, "used": kept.used}
    text = json.dumps(header | {"outputs": kept.outputs})
    atomic_write_bytes(path, text.encode() + b"\n" + kept.module)
    oldest = time.time() - UNUSED_DAYS * 86_400
    for other in path.parent.glob("*.program"):
        with contextlib.suppress(OSError):  # another process may be as quick
            if other.stat().st_mtime < oldest:
                other.unlink()
