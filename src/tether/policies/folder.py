"""The deployable policy: a network with its normaliser and action range, and the folder it travels in.

    policy/policy.safetensors   every array: networks, normaliser, action range
    policy/policy.json          algorithm, hyper-parameters, sizes, golden pairs, hashes; for readers also the
                                normaliser and the action range; names of the columns where the data have any

Loading rebuilds the policy from the two files alone, verifies the hashes, and makes the policy act on the
golden observations: a policy that would act differently here from where it was trained is refused. One with a
memory is made to act in a golden episode instead.
"""

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np

from tether._version import __version__
from tether.algorithms.registry import hyperparameters_of, name_of, origin_of, recover_algorithm
from tether.data import Normaliser
from tether.data.schema import Schema, size_of
from tether.errors import InputError
from tether.machine.files import decode_arrays, encode_arrays, fsync_directory, to_json, write_synced
from tether.policies.deployed import DeployedPolicy, deploy
from tether.policies.golden import golden_episode, golden_pairs, verify_golden_pairs
from tether.policies.loaded import DOCUMENT, LoadedPolicy
from tether.types import Float, PRNGKey, Spec

__all__ = ["load_policy", "save_policy"]

FORMAT_VERSION = 3
# 1 had neither `action_range` nor `schema`: its actions are those of [-1, 1]. 2 had no `low` and `high` in the former:
# its actions reach from offset - scale to offset + scale.
READABLE = (1, 2, 3)
ARRAYS = "policy.safetensors"
# What loading needs of the document; the rest is for readers.
REQUIRED = {"algorithm", "hyperparameters", "spec", "normaliser", "sha256", "golden"}


def save_policy(
    folder: Path,
    policy: DeployedPolicy,
    *,
    algorithm: Any,
    spec: Spec,
    observations: Float[np.ndarray, "rows observation"],
    notes: dict[str, Any],
    schema: Schema | None = None,
) -> None:
    """Write the policy folder; an existing one is replaced, and at no moment is a half-written one readable.

    observations: real ones, of which the golden pairs are made.
    notes: for readers (data set, lane, scores), kept as they are.
    schema: names of the data's columns.
    Raises: OSError; an existing folder is then still there.
    """
    data = encode_arrays(policy)
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
        "schema": None if schema is None else schema.to_json(),
        "sha256": hashlib.sha256(data).hexdigest(),
        "golden": (golden_episode if policy.has_memory else golden_pairs)(policy, observations),
        "notes": notes,
    }
    document["document_sha256"] = _document_hash(document)
    _write_folder(folder, {ARRAYS: data, DOCUMENT: to_json(document).encode()})


def _write_folder(folder: Path, files: dict[str, bytes]) -> None:
    """Put `files` into `folder`, all or none; what was there before goes only when they are complete."""
    temporary, replaced = (folder.with_name(f".{kind}-{folder.name}") for kind in ("tmp", "old"))
    for left in (temporary, replaced):  # by a crash
        shutil.rmtree(left, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        for name, data in files.items():
            write_synced(temporary / name, data)
        fsync_directory(temporary)
        if folder.exists():
            folder.rename(replaced)
        try:
            temporary.rename(folder)
        except OSError:
            if replaced.exists():
                replaced.rename(folder)
            raise
        fsync_directory(folder.parent)
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
    document = _read_document(folder / DOCUMENT)
    try:
        data = (folder / ARRAYS).read_bytes()
    except OSError as error:
        raise InputError(f"{folder / ARRAYS}: cannot be read: {error.strerror or error}") from None
    if hashlib.sha256(data).hexdigest() != document["sha256"]:
        raise InputError(f"{folder / ARRAYS}: truncated or altered: its SHA-256 is not the one in {DOCUMENT}")
    path = folder / DOCUMENT
    maker = _algorithm_of(document, path, algorithm)
    module = decode_arrays(data, _skeleton(maker, document, path), str(folder / ARRAYS))
    try:
        policy = LoadedPolicy(module, document, maker, seed)
        _verify_affine_maps(policy, path)
        verify_golden_pairs(document, module, policy.step, path)
    except (KeyError, TypeError, AttributeError) as error:  # entries of another kind than are written there
        raise InputError(f"{path}: altered: {type(error).__name__} {error}") from error
    return policy.with_acting(**acting) if acting else policy


def _read_document(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text())
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}; a policy folder holds it") from None
    except ValueError:
        raise InputError(f"{path}: truncated or altered: not JSON") from None
    found = document.get("format_version") if isinstance(document, dict) else None
    if found not in READABLE:
        raise InputError(f"{path}: format {found!r}; this version of tether reads {', '.join(map(str, READABLE))}")
    stated = document.pop("document_sha256", None)
    if stated != _document_hash(document):
        raise InputError(f"{path}: altered: its SHA-256 is not the one it states")
    required = REQUIRED | ({"action_range", "schema"} if found > 1 else set())
    if missing := required - set(document):
        raise InputError(f"{path}: altered: no {', '.join(sorted(missing))} in it")
    return document


def _document_hash(document: dict[str, Any]) -> str:
    return hashlib.sha256(to_json(document).encode()).hexdigest()


def _algorithm_of(document: dict[str, Any], path: Path, given: Any) -> Any:
    """The algorithm that made the policy, by its class, which is `given` or registered."""
    try:
        return recover_algorithm(document, given)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except (TypeError, AttributeError) as error:
        raise InputError(f"{path}: altered: {type(error).__name__} {error}") from error


def _skeleton(algorithm: Any, document: dict[str, Any], path: Path) -> DeployedPolicy:
    """The policy's structure, without arrays."""
    try:
        spec = Spec(**document["spec"])
    except (TypeError, AttributeError) as error:
        raise InputError(f"{path}: altered: {type(error).__name__} {error}") from error
    zeros = np.zeros(spec.observation_size, np.float32)

    def build(key: PRNGKey) -> DeployedPolicy:
        policy = deploy(algorithm.policy(algorithm.init(spec, key)), spec, Normaliser(zeros, zeros))
        return dataclasses.replace(policy, action_low=low, action_high=high)

    low, high = _stated_bounds(document, spec, path)
    return eqx.filter_eval_shape(build, jax.random.key(0))  # the key's value is never looked at


def _stated_bounds(document: dict[str, Any], spec: Spec, path: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Lowest and highest actions."""
    try:
        stated = document.get("action_range", {"scale": [1.0] * spec.action_size, "offset": [0.0] * spec.action_size})
        if "low" not in stated:
            scale, offset = (np.asarray(stated[name], np.float32) for name in ("scale", "offset"))
            stated = {"low": (offset - scale).tolist(), "high": (offset + scale).tolist()}
        low, high = (tuple(float(number) for number in stated[name]) for name in ("low", "high"))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: altered: {type(error).__name__} {error}") from None
    if not len(low) == len(high) == spec.action_size or not all(a <= b for a, b in zip(low, high, strict=True)):
        raise InputError(f"{path}: altered: its action range is not one pair for each action")
    return low, high


def _verify_affine_maps(policy: LoadedPolicy, path: Path) -> None:
    """Normaliser and action range for readers are those in the arrays, and the schema fits them."""
    document, module = policy.document, policy.module
    stated = {"normaliser": {"mean": module.observation_mean, "std": module.observation_std}}
    if "action_range" in document:
        stated["action_range"] = {"scale": module.action_scale, "offset": module.action_offset}
    for entry, arrays in stated.items():
        for name, array in arrays.items():
            if not np.array_equal(np.asarray(document[entry][name], np.float32), array):
                raise InputError(f"{path}: its {entry}'s {name} is not the one in {ARRAYS}")
    if policy.schema is not None:
        sizes = Spec(size_of(policy.schema.observation), size_of(policy.schema.action), policy.spec.max_action)
        box = policy.schema.box
        if sizes != policy.spec or not np.array_equal(box.scale, module.action_scale):
            raise InputError(f"{path}: altered: its schema is not that of its policy")
