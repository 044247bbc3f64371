"""The folder in which a policy leaves: `tether export`, and `tether_runtime.load` on the other side.

What it holds is written down in `tether_runtime/folder.py`. Before it is put in its place, the exported policy acts
here beside JAX (`export/verify.py`); one that differs is not written.
"""

import dataclasses
import hashlib
import io
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.export
import numpy as np

from tether._version import __version__
from tether.errors import InputError
from tether.export.batched import Batched, batched
from tether.export.graph import Graph
from tether.export.onnx_file import OPSET, onnx_model
from tether.export.program import program
from tether.export.verify import LOAD_FACTOR, TOLERANCE, Agreement, Run, check, golden_sample, sample_inputs, tolerances
from tether.machine.files import to_json
from tether.machine.reading import parse_json, read_bytes
from tether.policies.acting import Sampled
from tether.policies.density import with_noise
from tether.policies.folder import write_folder
from tether.policies.loaded import LoadedPolicy
from tether.trust import Support

__all__ = ["CHECKED_DECISIONS", "DOCUMENT", "DType", "Exported", "Format", "runner_of", "write_export"]

Format = Literal["onnx", "numpy", "stablehlo"]
DType = Literal["float32", "float16"]
DOCUMENT = "export.json"
TRUST = "trust.npz"
FORMAT_VERSION = 1
CHECKED_DECISIONS = 1_000


class Exported(NamedTuple):
    """What was written."""

    folder: Path
    candidates: tuple[int | None, ...]  # of each graph; None where the policy has no such number
    agreements: tuple[Agreement, ...]  # of each graph with JAX
    bytes: int


def write_export(
    policy: LoadedPolicy,
    folder: str | Path,
    *,
    format: Format = "onnx",
    dtype: DType = "float32",
    candidates: Sequence[int] = (),
    units: Mapping[str, str] | None = None,
    noise: bool = False,
    rows: int = CHECKED_DECISIONS,
) -> Exported:
    """Write `policy` for a runtime without JAX into `folder`, which is replaced where it holds an export already.

    format: onnx (ONNX Runtime), numpy (NumPy alone), stablehlo (compilers that take it; `jax.export`).
    dtype: float16: the networks compute in half precision; normaliser and range of the actions stay float32.
    candidates: a graph for each, the first is acted with by default; none: as the policy was saved.
    units: name of a column -> its unit, for readers.
    noise: a Gaussian actor acts with its noise, and says how likely each action was, in the place of its mode.
    rows: decisions that are compared with JAX before anything is written.
    Raises InputError where the policy draws in a way or has an operation that the format does not know, a package is
    missing, or the exported policy does not act as JAX does.
    """
    folder = Path(folder)
    _check_asked(folder, format, dtype, candidates, rows, noise)
    policy = _noisy(policy) if noise else policy
    own = policy.document["hyperparameters"].get("candidates")
    counts: tuple[int | None, ...] = tuple(candidates) or (own,)
    acting = [policy if count == own else policy.with_acting(candidates=count) for count in counts]
    files: dict[str, bytes] = {}
    entries, samples = [], []
    for count, each in zip(counts, acting, strict=True):
        stem = f"policy-{count}" if entries else "policy"
        graph = Graph(each.module, half=dtype == "float16")
        samples.append(sample_inputs(graph, each, rows))
        written = WRITERS[format](batched(graph), stem, _notes(each, count, graph))
        golden = f"{stem}.golden.npz"
        files |= written | {golden: _npz(golden_sample(samples[-1], each.module, dtype))}
        draws = [{"name": f"noise_{i}", **draw._asdict()} for i, draw in enumerate(graph.draws)]
        entry = {"candidates": count, "file": next(iter(written)), "golden": golden, "noise": draws}
        entries.append(entry | {"extras": list(graph.extras)})
    document = _document(policy, format, dtype, units or {}) | {"graphs": entries}
    if policy.support is not None and format != "stablehlo":  # which nothing of ours runs
        files[TRUST] = _npz(_arrays(policy.support))
        module = policy.module
        box = {"action_scale": module.action_scale.tolist(), "action_offset": module.action_offset.tolist()}
        document["trust"] = {"file": TRUST, **box, **policy.document["trust"]}
    agreements = []
    with tempfile.TemporaryDirectory(prefix="tether-export-") as scratch:
        for name, data in _complete(document, files).items():
            (Path(scratch) / name).write_bytes(data)
        for number, (each, sample) in enumerate(zip(acting, samples, strict=True)):
            run, extras = _runner(Path(scratch), document, number), entries[number]["extras"]
            agreements.append(check(run, sample, each.module, dtype, extras))
    document["verified"] = [each._asdict() for each in agreements]
    write_folder(folder, _complete(document, files))
    return Exported(folder, counts, tuple(agreements), sum(map(len, files.values())))


def _check_asked(folder: Path, format: str, dtype: str, candidates: Sequence[Any], rows: int, noise: bool) -> None:
    """Raises InputError for what nothing can be written of."""
    if folder.exists() and not (folder / DOCUMENT).is_file():
        raise InputError(f"{folder}: exists and holds no {DOCUMENT}; name another folder")
    for name, value, known in (("format", format, tuple(WRITERS)), ("dtype", dtype, tuple(TOLERANCE))):
        if value not in known:
            raise InputError(f"{name} {value!r}: there are {', '.join(known)}")
    if format != "onnx" and dtype != "float32":
        raise InputError(f"dtype {dtype}: format {format} computes in float32; onnx takes float16, too")
    if noise and dtype != "float32":
        raise InputError(f"dtype {dtype}: with noise the density of each action is told, which needs float32")
    if rows < 1:
        raise InputError(f"decisions {rows}: at least 1 is compared with JAX")
    if wrong := [count for count in candidates if isinstance(count, str)]:
        raise InputError(f"candidates {wrong[0]!r}: whole numbers are needed")
    if len(set(candidates)) < len(candidates):
        raise InputError(f"candidates {list(candidates)}: each may be named once")


def _noisy(policy: LoadedPolicy) -> LoadedPolicy:
    """The policy that acts with its actor's noise. Raises InputError where there is none to act with."""
    module, noisy = with_noise(policy.module)
    if not (noisy and isinstance(module.policy, Sampled) and module.policy.has_density):
        raise InputError(f"noise: {policy.document['algorithm']} has no Gaussian actor that acts by its mode")
    notes = policy.document.get("notes", {}) | {"noise": "acts with its noise"}
    document = policy.document | {"notes": notes}
    return LoadedPolicy(module, document, policy.algorithm, support=policy.support, framing=policy.framing)


def _write_onnx(graph: Batched, stem: str, notes: dict[str, str]) -> dict[str, bytes]:
    model = onnx_model(program(graph.function, graph.inputs.values()), list(graph.inputs), graph.outputs, notes)
    return {f"{stem}.onnx": model.SerializeToString()}


def _write_numpy(graph: Batched, stem: str, notes: dict[str, str]) -> dict[str, bytes]:
    written = program(graph.function, graph.inputs.values())
    return {f"{stem}.json": json.dumps(written.document).encode(), f"{stem}.npz": _npz(written.constants)}


def _write_stablehlo(graph: Batched, stem: str, notes: dict[str, str]) -> dict[str, bytes]:
    (batch,) = jax.export.symbolic_shape("batch")
    inputs = [jax.ShapeDtypeStruct((batch, *one.shape), one.dtype) for one in graph.inputs.values()]
    exported = jax.export.export(jax.jit(graph.function), platforms=("cpu", "cuda", "tpu"))(*inputs)
    return {f"{stem}.jax": bytes(exported.serialize()), f"{stem}.mlirbc": exported.mlir_module_serialized}


WRITERS: dict[Format, Callable[[Batched, str, dict[str, str]], dict[str, bytes]]] = {
    "onnx": _write_onnx,
    "numpy": _write_numpy,
    "stablehlo": _write_stablehlo,
}
"""Format -> what writes a graph: (graph, stem of its files' names, notes) -> files, the one to load first."""


def runner_of(folder: Path) -> Run:
    """What computes the first graph of an exported folder: inputs -> outputs. Raises InputError where it cannot."""
    return _runner(folder, parse_json(read_bytes(folder / DOCUMENT)), 0)


def _runner(folder: Path, document: dict[str, Any], number: int) -> Run:
    """What computes a graph of an exported folder."""
    if document["format"] == "stablehlo":
        exported = jax.export.deserialize(bytearray((folder / document["graphs"][number]["file"]).read_bytes()))
        return lambda inputs: tuple(exported.call(*inputs))
    try:
        import tether_runtime
    except ImportError:
        raise InputError(f"format {document['format']}: needs tether-runtime: pip install tether-rl[export]") from None
    try:
        graph = tether_runtime.load(folder).graph(number)
    except tether_runtime.InputError as error:
        raise InputError(f"the exported policy is refused by its runtime: {error}") from error

    def run(inputs: list[Any]) -> list[Any]:
        outputs, extras = graph.run_with_extras(inputs)
        return [*outputs, *extras.values()]

    return run


def _notes(policy: LoadedPolicy, count: int | None, graph: Graph) -> dict[str, str]:
    """What is kept within a graph's file, for those who have nothing else; the laws of the noise by its inputs."""
    notes = {"algorithm": policy.document["algorithm"], "tether": __version__}
    notes |= {f"noise_{i}": draw.law for i, draw in enumerate(graph.draws)}
    return notes if count is None else notes | {"candidates": str(count)}


def _document(policy: LoadedPolicy, format: Format, dtype: DType, units: Mapping[str, str]) -> dict[str, Any]:
    """export.json, but for the graphs."""
    stated, module, schema = policy.document, policy.module, policy.schema
    names = {} if schema is None else {"observation": dict(schema.observation), "action": dict(schema.action)}
    known = {name for layout in names.values() for name in layout}
    if unknown := sorted(set(units) - known):
        raise InputError(f"unit of {unknown[0]!r}: no such column; there are {', '.join(sorted(known)) or 'none'}")
    sides: dict[str, Any] = {}
    for side, size in (("observation", policy.spec.observation_size), ("action", policy.spec.action_size)):
        columns = {name: list(slice_) for name, slice_ in names.get(side, {}).items()}
        own = {name: unit for name, unit in units.items() if name in columns}
        sides[side] = {"size": size, "columns": columns or None, "units": own}
    sides["observation"] |= {"statistics": stated.get("observation_statistics"), "example": _example(stated)}
    sides["action"] |= {"low": list(module.action_low), "high": list(module.action_high)}
    memory = [np.asarray(leaf) for leaf in jax.tree.leaves(module.initial_memory())]
    return {
        "format_version": FORMAT_VERSION,
        "format": format,
        "dtype": dtype,
        **({"opset": OPSET} if format == "onnx" else {}),
        "algorithm": stated["algorithm"],
        "hyperparameters": stated["hyperparameters"],
        "tether": __version__,
        "jax": jax.__version__,
        **sides,
        "framing": dataclasses.asdict(policy.framing),
        "memory": [{"shape": list(leaf.shape), "dtype": leaf.dtype.name, "initial": leaf.tolist()} for leaf in memory],
        "tolerance": tolerances(module, dtype).tolist(),
        "golden_tolerance": tolerances(module, dtype, LOAD_FACTOR).tolist(),
        "policy_sha256": stated["sha256"],
        "notes": stated.get("notes", {}),
    }


def _example(document: dict[str, Any]) -> list[float]:
    """An observation to try the policy with."""
    return document["golden"]["observations"][0]


def _complete(document: dict[str, Any], files: dict[str, bytes]) -> dict[str, bytes]:
    """All files, export.json with their hashes and its own."""
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    document = json.loads(to_json(document | {"files": hashes}))  # plain numbers, as readers find them
    spelled = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    document["document_sha256"] = hashlib.sha256(spelled.encode()).hexdigest()
    return {**files, DOCUMENT: to_json(document).encode()}


def _arrays(support: Support) -> dict[str, np.ndarray]:
    """By name; those of layers are numbered."""
    found: dict[str, np.ndarray] = {}
    for name, value in support._asdict().items():
        if value is None:
            continue
        found |= {f"{name}_{i}": layer for i, layer in enumerate(value)} if isinstance(value, tuple) else {name: value}
    return found


def _npz(arrays: Mapping[str, np.ndarray]) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]  (names are data's)
    return file.getvalue()
