"""The deployable policy: a network with its normaliser and action range, and the folder it travels in.

    policy/policy.safetensors   every array: networks, normaliser, action range
    policy/policy.json          algorithm, hyper-parameters, sizes, golden pairs, hashes; for readers also the
                                normaliser and the action range; names of the columns where the data have any
    policy/trust.safetensors    what decisions are judged by (`tether.trust`)

Loading rebuilds the policy from these files alone, verifies the hashes, and makes the policy act on the
golden observations: a policy that would act differently here from where it was trained is refused. One with a
memory is made to act in a golden episode instead.
"""

import dataclasses
import functools
import hashlib
import itertools
import os
import shutil
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np

from tether._version import __version__
from tether.algorithms.registry import hyperparameters_of, name_of, origin_of, recover_algorithm
from tether.data.framing import ONE_STEP, Framing
from tether.data.schema import Schema, size_of
from tether.data.transforms import ColumnStatistics, column_statistics
from tether.errors import InputError
from tether.machine.files import (
    decode_arrays,
    encode_arrays,
    fsync_directory,
    temporary_path,
    to_json,
    write_synced,
)
from tether.machine.reading import one_line, read_bytes
from tether.policies.deployed import DeployedPolicy
from tether.policies.document import PolicyDocument, document_hash, read_document
from tether.policies.framed import untrained_policy
from tether.policies.golden import golden_episode, golden_pairs, verify_golden_pairs
from tether.policies.loaded import DOCUMENT, LoadedPolicy
from tether.trust import Calibrated, Support
from tether.trust.support import PLAIN, SATURATING
from tether.types import Float, Spec

__all__ = ["load_policy", "save_policy", "write_folder"]

FORMAT_VERSION = 5
ARRAYS = "policy.safetensors"
TRUST = "trust.safetensors"


def save_policy(
    folder: Path,
    policy: DeployedPolicy,
    *,
    algorithm: Any,
    spec: Spec,
    observations: Float[np.ndarray, "rows observation"],
    notes: dict[str, Any],
    schema: Schema | None = None,
    trust: Calibrated | None = None,
    framing: Framing = ONE_STEP,
    seen: ColumnStatistics | None = None,
) -> None:
    """Write the policy folder; an existing one is replaced, and at no moment is a half-written one readable.

    observations: real ones, of which the golden pairs are made.
    notes: for readers (data set, lane, scores), kept as they are.
    schema: names of the data's columns.
    trust: what decisions are judged by; None: they cannot be.
    framing: of the decisions that the algorithm was trained on; `spec` is that of a step.
    seen: of all observations that it was trained on; None: of `observations`.
    Raises: OSError; an existing folder is then still there.
    """
    files = {ARRAYS: encode_arrays(policy)} | ({} if trust is None else {TRUST: encode_arrays(trust.support)})
    document = {
        "format_version": FORMAT_VERSION,
        "tether": __version__,
        "jax": jax.__version__,
        "algorithm": name_of(algorithm),
        **origin_of(type(algorithm)),
        "hyperparameters": hyperparameters_of(algorithm),
        "spec": spec._asdict(),
        "normaliser": {
            "mean": np.asarray(policy.observation_mean).tolist(),
            "std": np.asarray(policy.observation_std).tolist(),
        },
        "action_range": {
            "scale": np.asarray(policy.action_scale).tolist(),
            "offset": np.asarray(policy.action_offset).tolist(),
            "low": policy.action_low,
            "high": policy.action_high,
        },
        "observation_statistics": _statistics(column_statistics(observations) if seen is None else seen),
        "schema": None if schema is None else schema.to_json(),
        "trust": None if trust is None else _describe(trust, files[TRUST]),
        "framing": dataclasses.asdict(framing),
        "sha256": hashlib.sha256(files[ARRAYS]).hexdigest(),
        "golden": (golden_episode if policy.has_memory else golden_pairs)(policy, observations),
        "notes": notes,
    }
    document["document_sha256"] = document_hash(document)
    write_folder(folder, {**files, DOCUMENT: to_json(document).encode()})


def _describe(trust: Calibrated, data: bytes) -> dict[str, Any]:
    """The entry of policy.json; data: of trust.safetensors."""
    support = trust.support
    return {
        "sha256": hashlib.sha256(data).hexdigest(),
        "references": len(support.observations),
        "hidden_sizes": [len(bias) for bias in support.biases[:-1]],
        "density": support.action_scale is not None,
        "relations": support.relations is not None,
        "calibrated": len(support.calibration),
        "pieces": trust.pieces,
        "stretch_rows": trust.stretch_rows,
        "held_out": trust.held_out,
        "flagged_in_pieces": trust.flagged_in_pieces,
    }


def _statistics(seen: ColumnStatistics) -> dict[str, Any]:
    """For those who watch whether what the policy is shown resembles what it learnt from."""
    numbers = {"mean": seen.mean, "std": seen.std, "low": seen.low, "high": seen.high}
    return {"rows": seen.rows, **{name: column.astype(np.float32).tolist() for name, column in numbers.items()}}


def write_folder(folder: Path, files: dict[str, bytes]) -> None:
    """Put `files` into `folder`, all or none; what was there before goes only when they are complete.

    A link such as `current -> v1` stays one: what it leads to is replaced.
    Raises: OSError; an existing folder is then still there.
    """
    place = Path(os.path.realpath(folder))
    temporary, replaced = temporary_path(place), place.with_name(f".old-{place.name}.tether")
    shutil.rmtree(temporary, ignore_errors=True)  # of a dead process that had this one's number
    try:
        if replaced.exists() and not place.exists():  # a kill came between the two renames below
            replaced.rename(place)
        temporary.mkdir(parents=True)
        for name, data in files.items():
            write_synced(temporary / name, data)
        fsync_directory(temporary)
        if place.exists():
            shutil.rmtree(replaced, ignore_errors=True)  # of a kill behind the two renames
            place.rename(replaced)
        try:
            temporary.rename(place)
        except OSError:
            if replaced.exists():
                replaced.rename(place)
            raise
        fsync_directory(place.parent)
    except OSError as error:
        raise OSError(error.errno, f"policy not written: {error.strerror or error}", str(folder)) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(replaced, ignore_errors=True)


def load_policy(folder: str | Path, seed: int = 0, *, algorithm: Any = None, **acting: Any) -> LoadedPolicy:
    """The policy in `folder` (a `policy/` folder, or a run folder that holds one).

    algorithm: the class that made it, or an instance, where that is not registered here.
    acting: how it shall act, such as `candidates=64`, in the place of what it was saved with; only
        hyper-parameters that training does not depend on (`LoadedPolicy.with_acting`).
    Raises InputError where a file is missing or altered, the format is unknown, the policy does not
    reproduce its golden pairs, or one of these cannot be changed.
    """
    folder = Path(folder)
    if not (folder / DOCUMENT).exists() and (folder / "policy" / DOCUMENT).exists():
        folder = folder / "policy"
    path = folder / DOCUMENT
    document, parsed = read_document(path)
    data = _verified(folder / ARRAYS, parsed.sha256)
    maker = _algorithm_of(document, path, algorithm)
    module = decode_arrays(data, _skeleton(maker, parsed, path), str(folder / ARRAYS))
    policy = LoadedPolicy(module, document, maker, seed, _support(folder / TRUST, parsed), parsed.framing)
    _verify_affine_maps(policy, parsed, path)
    verify_golden_pairs(document, module, policy.step, path)
    return policy.with_acting(**acting) if acting else policy


def _verified(path: Path, sha256: str) -> bytes:
    """The content of a file of the folder. Raises InputError where it is not the one with this hash."""
    try:
        data = read_bytes(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    if hashlib.sha256(data).hexdigest() != sha256:
        raise InputError(f"{path}: truncated or altered: its SHA-256 is not the one in {DOCUMENT}")
    return data


def _support(path: Path, document: PolicyDocument) -> Support | None:
    """What decisions are judged by; None in a folder without it."""
    stated, (states, actions) = document.trust, document.sizes[:2]
    if stated is None:
        return None
    outputs = actions + ((PLAIN + SATURATING) * (1 + 2 * actions) if stated.density else 0)
    sizes, references = (states, *stated.hidden_sizes, outputs), stated.references
    like = Support(
        *(_zeros(states) for _ in range(4)),
        observations=_zeros(references, states),
        actions=_zeros(references, actions),
        residuals=_zeros(references, actions),
        whitening=_zeros(actions, actions),
        weights=tuple(_zeros(after, before) for before, after in itertools.pairwise(sizes)),
        biases=tuple(map(_zeros, sizes[1:])),
        own_columns=_zeros(references, states),
        own_distance=_zeros(references),
        own_action=_zeros(references),
        column_limits=_zeros(states),
        limits=_zeros(4 if stated.density else 3),
        calibration=_zeros(stated.calibrated),
        relations=_zeros(states, states) if stated.relations else None,
        relation_limits=_zeros(states) if stated.relations else None,
        action_scale=_zeros(actions) if stated.density else None,
    )
    return decode_arrays(_verified(path, stated.sha256), like, str(path))


def _zeros(*shape: int) -> np.ndarray:
    """Of a shape alone: takes no memory."""
    return np.broadcast_to(np.zeros((), np.float32), shape)


def _algorithm_of(document: dict[str, Any], path: Path, given: Any) -> Any:
    """The algorithm that made the policy, by its class, which is `given` or registered."""
    try:
        return recover_algorithm(document, given)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _skeleton(algorithm: Any, document: PolicyDocument, path: Path) -> DeployedPolicy:
    """The policy's structure, without arrays."""
    spec, framing, (low, high) = document.sizes, document.framing, document.bounds
    build = functools.partial(untrained_policy, algorithm, spec, framing, low, high)
    try:
        return eqx.filter_eval_shape(build, jax.random.key(0))  # the key's value is never looked at
    except (ValueError, TypeError, ArithmeticError, MemoryError) as error:  # of sizes that JAX does not count to
        raise InputError(f"{path}: its sizes and hyper-parameters make no policy: {one_line(error)}") from None


def _verify_affine_maps(policy: LoadedPolicy, document: PolicyDocument, path: Path) -> None:
    """Normaliser and action range for readers are those in the arrays, and the schema fits them."""
    module, ranges = policy.module, document.action_range
    stated = {"normaliser's mean": (document.normaliser.mean, module.observation_mean)}
    stated["normaliser's std"] = document.normaliser.std, module.observation_std
    if ranges is not None:
        stated["action_range's scale"] = ranges.scale, module.action_scale
        stated["action_range's offset"] = ranges.offset, module.action_offset
    for name, (numbers, array) in stated.items():
        if not np.array_equal(np.asarray(numbers, np.float32), array):
            raise InputError(f"{path}: its {name} is not the one in {ARRAYS}")
    if policy.schema is not None:
        sizes = Spec(size_of(policy.schema.observation), size_of(policy.schema.action), policy.spec.max_action)
        box = policy.schema.box
        if sizes != policy.spec or not np.array_equal(box.scale, module.action_scale):
            raise InputError(f"{path}: altered: its schema is not that of its policy")
