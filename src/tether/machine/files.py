"""Files that survive crashes: atomic writes, checksums, and pytrees of arrays as safetensors.

A reader never sees half a file: everything is written under a temporary name in the same folder, flushed to
the disk (fsync), renamed, and the rename itself is flushed. Each folder has one writing process at a time.
"""

import contextlib
import errno
import functools
import hashlib
import json
import math
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from jaxtyping import PyTree

from tether.errors import InputError

# JAX is imported inside the functions that need it: who only writes text does not wait for it.

__all__ = [
    "atomic_path",
    "atomic_write_bytes",
    "atomic_write_json",
    "atomic_write_text",
    "decode_arrays",
    "describe_arrays",
    "encode_arrays",
    "file_stem",
    "fsync_directory",
    "lasting",
    "load_arrays",
    "remove_abandoned",
    "save_arrays",
    "sha256_file",
    "temporary_path",
    "temporary_suffix",
    "to_json",
    "write_synced",
]

TEMPORARY_PREFIX = ".tmp-"
TEMPORARY = re.compile(r"\.tmp-.+-([0-9]+)\.tether", re.DOTALL)  # as in `temporary_path`, the number is the process
LOCK = ".lock"  # how a folder's lock file is called (`machine/locks.py`)
ABANDONED_SECONDS = 24 * 3600.0  # a temporary file that was not touched for so long, and whose process is gone

# --- bytes and text -----------------------------------------------------------------------------------------


def file_stem(name: str) -> str:
    """`name` as part of a file's or folder's own: a data set may be called `../elsewhere`."""
    return re.sub(r"[^\w.+=-]", "-", name)


def write_synced(path: Path, data: bytes) -> None:
    """Write `data` to `path` and flush it to the disk. Not atomic: for files in a folder renamed later.

    Raises: OSError (disk full, permissions, ...); what was written until then stays.
    """
    binary = getattr(os, "O_BINARY", 0)  # exists on Windows only
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | binary
    descriptor = os.open(path, flags, 0o666)
    try:
        rest = memoryview(data)
        while rest:  # the system may take fewer bytes than it is given
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_directory(path: Path) -> None:
    """Flush a folder's entries, so that a rename in it survives a power cut. Windows cannot: nothing is done.

    Raises: OSError, except from file systems that do not know how to flush a folder.
    """
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary name to write `path` under: complete when the block ends, gone when it fails.

    Raises: OSError; what `path` was before is then still there.
    """
    temporary = temporary_path(path)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:  # Ctrl-C leaves no litter either
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    fsync_directory(path.parent)


def atomic_write_bytes(path: Path, data: bytes) -> None:
    """Replace `path` by `data`; a reader, or a crash at any moment, finds the old content or the new.

    Raises: OSError; the old content is then still there and the temporary file is not.
    """
    temporary = temporary_path(path)
    try:
        write_synced(temporary, data)
        os.replace(temporary, path)
    except BaseException:  # Ctrl-C leaves no litter either
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    fsync_directory(path.parent)


def temporary_path(path: Path) -> Path:
    """The name under which this process writes `path`; those that dead processes left beside it go."""
    remove_abandoned(path.parent.absolute())
    return path.with_name(f"{TEMPORARY_PREFIX}{path.name}{temporary_suffix()}")


def temporary_suffix() -> str:
    """What ends the names of this process's temporary files: who made them. No reader takes them for data by it."""
    return f"-{os.getpid()}.tether"


@functools.cache
def remove_abandoned(folder: Path) -> None:
    """Remove what a killed process of tether has left in `folder` more than a day ago. Done once.

    The folder may be the user's own (`--out ~/curve.png`), so nothing goes but what has a name of `temporary_path`.
    """
    with contextlib.suppress(OSError):
        for path in list(folder.iterdir()):
            named = TEMPORARY.fullmatch(path.name)
            if named is not None and not _is_in_use(path, int(named[1])):
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def _is_in_use(path: Path, process: int) -> bool:
    """Whether a temporary file is young, or the process in its name may still be at it."""
    touched = max(entry.lstat().st_mtime for entry in (path, *path.rglob("*")))
    if time.time() - touched < ABANDONED_SECONDS:
        return True
    if process == os.getpid():  # this one has just begun to write here
        return False
    if os.name == "nt":  # where signal 0 is Ctrl-C
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it is somebody else's
        return True
    return True


def lasting(folder: Path) -> list[Path]:
    """What is in `folder` beside temporary files and its lock; nothing where there is none. Raises: OSError."""
    if not folder.exists():
        return []
    return [path for path in folder.iterdir() if not path.name.startswith((TEMPORARY_PREFIX, LOCK))]


def atomic_write_text(path: Path, text: str) -> None:
    """`atomic_write_bytes` of UTF-8 text."""
    atomic_write_bytes(path, text.encode())


def atomic_write_json(path: Path, value: Any) -> None:
    """`atomic_write_bytes` of `to_json(value)`."""
    atomic_write_text(path, to_json(value))


def to_json(value: Any) -> str:
    """Strict JSON text, indented, with a final newline.

    NaN and infinities become null, as strict JSON has no such numbers and a diverged run must still be able
    to report. NumPy and JAX arrays and scalars become (lists of) numbers, paths become text.
    Raises: TypeError for anything else that JSON does not know.
    """
    return json.dumps(_plain(value), indent=2, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's content, 64 hexadecimal digits, read in pieces. Raises: OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- arrays -------------------------------------------------------------------------------------------------


def save_arrays(path: Path, tree: PyTree) -> None:
    """Write the arrays of `tree` to one safetensors file, atomically. Raises: as `encode_arrays`; OSError."""
    atomic_write_bytes(path, encode_arrays(tree))


def load_arrays(path: Path, like: PyTree) -> PyTree:
    """Read what `save_arrays` wrote, in the structure of `like`.

    Raises: InputError as `decode_arrays`, and where the file cannot be read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    return decode_arrays(data, like, str(path))


def encode_arrays(tree: PyTree) -> bytes:
    """A pytree of arrays as the content of a safetensors file; the same tree gives the same bytes.

    Each array is stored bit by bit under its path in the tree (`critic/layers/0/weight`). A typed PRNG key is
    stored as its uint32 key data, and the file's header notes its kind.
    Raises: TypeError for a leaf that is not an array or has a dtype that safetensors does not know;
    ValueError where two paths give the same name.
    """
    import jax

    arrays, keys = {}, {}
    for name, leaf in _named_leaves(tree).items():
        if _is_key(leaf):
            keys[name] = str(leaf.dtype)
            leaf = jax.random.key_data(leaf)
        arrays[name] = leaf
    arrays = {name: np.asarray(array, order="C") for name, array in jax.device_get(arrays).items()}
    for name, array in arrays.items():
        if array.dtype not in _dtypes().values():
            raise TypeError(f"array {name!r} has dtype {array.dtype}, which safetensors cannot store")
    return safetensors.numpy.save(arrays, metadata={"prng_keys": json.dumps(keys)} if keys else None)


def decode_arrays(data: bytes, like: PyTree, source: str) -> PyTree:
    """The inverse of `encode_arrays`.

    like:   gives structure, shapes and dtypes; its leaves are JAX arrays, NumPy arrays,
            `jax.ShapeDtypeStruct`s or typed PRNG keys. NumPy leaves come back as NumPy arrays, the others as
            JAX arrays on the default device.
    source: what to call `data` in errors, usually the file's path.
    Raises: InputError where `data` is no safetensors file, or names, shapes or dtypes are not exactly those
    of `like`.
    """
    import jax

    try:
        stored = dict(safetensors.deserialize(data))
        keys = _stored_keys(data)
    except (safetensors.SafetensorError, ValueError, TypeError) as error:
        raise InputError(f"{source}: not a valid safetensors file: {error}") from error
    wanted = _named_leaves(like)
    _refuse_other_names(set(stored), set(wanted), source)
    leaves = []
    for name, leaf in wanted.items():
        view = stored[name]
        dtype = _dtypes().get(view["dtype"])
        found = _describe(tuple(view["shape"]), keys.get(name) or (dtype.name if dtype else view["dtype"]))
        expected = _describe(_stored_shape(leaf), str(leaf.dtype))
        if dtype is None or found != expected:
            raise InputError(f"{source}: array {name!r} is {found}, expected {expected}")
        leaves.append(_restore(np.frombuffer(view["data"], dtype).reshape(view["shape"]), leaf, f"{source}: {name!r}"))
    return jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(like), leaves)


def describe_arrays(tree: PyTree) -> dict[str, str]:
    """Name -> text such as `float32[256,17]` for every array of `tree`, in tree order."""
    return {name: _describe(tuple(leaf.shape), str(leaf.dtype)) for name, leaf in _named_leaves(tree).items()}


def _named_leaves(tree: PyTree) -> dict[str, Any]:
    import jax

    named: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if not (hasattr(leaf, "shape") and hasattr(leaf, "dtype")):
            raise TypeError(f"leaf {name!r} is a {type(leaf).__name__}, not an array")
        if name in named or name == "__metadata__":  # the latter is safetensors' own entry
            raise ValueError(f"the name {name!r} of an array is taken; rename an entry of the tree")
        named[name] = leaf
    return named


def _refuse_other_names(found: set[str], wanted: set[str], source: str) -> None:
    faults = []
    for kind, names in (("missing", wanted - found), ("unexpected", found - wanted)):
        if names:
            shown = ", ".join(repr(name) for name in sorted(names)[:5])
            faults.append(f"{kind} {shown}" + (f" and {len(names) - 5} more" if len(names) > 5 else ""))
    if faults:
        raise InputError(f"{source}: the arrays are not the expected ones: {'; '.join(faults)}")


def _restore(array: np.ndarray, leaf: Any, where: str) -> Any:
    """`array` as the kind of thing that `leaf` is, in memory of its own."""
    import jax
    import jax.numpy as jnp

    if isinstance(leaf, np.ndarray | np.generic):
        return array.copy()
    restored = jnp.array(array)
    if restored.dtype != array.dtype:
        raise InputError(f"{where} is {array.dtype}, which JAX holds only with jax_enable_x64")
    return jax.random.wrap_key_data(restored, impl=_key_implementation(leaf.dtype)) if _is_key(leaf) else restored


def _is_key(leaf: Any) -> bool:
    import jax
    import jax.numpy as jnp

    return bool(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key))


def _key_implementation(dtype: Any) -> str:
    """The name of a key dtype's generator; JAX tells it for key arrays only, not for ShapeDtypeStructs."""
    import jax

    for name in ("threefry2x32", "rbg", "unsafe_rbg"):
        if jax.eval_shape(lambda name=name: jax.random.key(0, impl=name)).dtype == dtype:
            return name
    raise InputError(f"PRNG keys of type {dtype} are not supported")


def _stored_shape(leaf: Any) -> tuple[int, ...]:
    import jax

    if not _is_key(leaf):
        return tuple(leaf.shape)
    return tuple(jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)).shape)


def _stored_keys(data: bytes) -> dict[str, str]:
    """Name -> dtype of the typed PRNG keys, from the header of a (valid) safetensors file."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return dict(json.loads(header.get("__metadata__", {}).get("prng_keys", "{}")))


def _describe(shape: tuple[int, ...], dtype: str) -> str:
    return f"{dtype}[{','.join(map(str, shape))}]"


@functools.cache
def _dtypes() -> dict[str, np.dtype]:
    """safetensors' name -> dtype (its own NumPy reader lacks bfloat16, which JAX provides)."""
    import jax.numpy as jnp

    kinds = {"BOOL": bool, "BF16": jnp.bfloat16, "C64": np.complex64, "F16": np.float16, "F32": np.float32}
    kinds |= {"F64": np.float64, "I8": np.int8, "I16": np.int16, "I32": np.int32, "I64": np.int64}
    kinds |= {"U8": np.uint8, "U16": np.uint16, "U32": np.uint32, "U64": np.uint64}
    return {name: np.dtype(kind) for name, kind in kinds.items()}
