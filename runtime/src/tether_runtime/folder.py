"""The folder that `tether export` leaves, read and verified.

    export.json            what the policy is, what it takes and gives, SHA-256 of every other file and of itself
    policy.onnx            the graph; of other numbers of candidates policy-16.onnx ...
    policy.json, .npz      in their place, for NumPy: the list of operations and its constants
    policy.golden.npz      observations and noise with the actions that they gave in JAX
    trust.npz              what decisions are judged by

Nothing is unpickled, and no name in a file is imported.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from tether_runtime.errors import InputError

__all__ = ["DOCUMENT", "FORMATS", "document_hash", "read_document", "read_file"]

DOCUMENT = "export.json"
FORMAT_VERSION = 1
FORMATS = ("onnx", "numpy")
REQUIRED = ("format", "algorithm", "observation", "action", "memory", "graphs", "golden_tolerance", "files")


def read_document(folder: Path) -> dict[str, Any]:
    """export.json, after its own hash and those of all files are found right.

    Raises InputError where a file is missing or altered, or the format is not one for this package.
    """
    path = folder / DOCUMENT
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}; `tether export` writes it") from None
    except (ValueError, RecursionError):
        raise InputError(f"{path}: truncated or altered: not JSON") from None
    found = document.get("format_version") if isinstance(document, dict) else None
    if found != FORMAT_VERSION:
        raise InputError(f"{path}: format {found!r}; this version of tether-runtime reads {FORMAT_VERSION}")
    stated = document.pop("document_sha256", None)
    if stated != document_hash(document):
        raise InputError(f"{path}: altered: its SHA-256 is not the one it states")
    missing = [name for name in REQUIRED if name not in document]
    if missing:
        raise InputError(f"{path}: altered: no {', '.join(missing)} in it")
    if document["format"] not in FORMATS:
        raise InputError(f"{path}: format {document['format']!r}; this package runs {', '.join(FORMATS)}")
    if not isinstance(document["files"], dict):
        raise InputError(f"{path}: altered: its files are no names with hashes")
    for name in document["files"]:
        if Path(name).name != name:
            raise InputError(f"{path}: altered: {name!r} is no file of this folder")
        read_file(folder, document, name)
    if document.get("trust") is not None and document["trust"]["file"] not in document["files"]:
        raise InputError(f"{path}: altered: the file of its trust has no hash in it")
    for graph in document["graphs"]:
        if not {graph["file"], graph["golden"]} <= set(document["files"]):
            raise InputError(f"{path}: altered: a graph's file has no hash in it")
    return document


def document_hash(document: dict[str, Any]) -> str:
    """SHA-256 of the document without its own, in one spelling whatever wrote it."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def read_file(folder: Path, document: dict[str, Any], name: str) -> bytes:
    """A file's content, with the hash that the document states: what is read later may be another version's.

    Raises InputError where it is missing or altered.
    """
    path = folder / name
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    if hashlib.sha256(data).hexdigest() != document["files"].get(name):
        raise InputError(f"{path}: truncated or altered: its SHA-256 is not the one in {DOCUMENT}")
    return data
