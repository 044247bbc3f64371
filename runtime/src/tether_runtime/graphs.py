"""What computes an action: ONNX Runtime, or a program of NumPy operations."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tether_runtime.errors import InputError
from tether_runtime.folder import read_file
from tether_runtime.program import Program

__all__ = ["Graph", "make_graph"]

Array = np.ndarray


class Engine(Protocol):
    """Inputs with a leading batch axis -> outputs with one."""

    def run(self, inputs: list[Array]) -> list[Array]: ...


class Graph:
    """A graph of export.json: inputs are observation, noise, and for a policy with a memory that and the reward;
    outputs are the action, the memory, and extras: the whole `chunk`, or the action's `log_density`."""

    def __init__(self, engine: Engine, entry: dict[str, Any], memory_parts: int):
        self._engine = engine
        self._own = 1 + memory_parts
        self.extras: list[str] = entry.get("extras", [])
        self.noise: list[dict[str, Any]] = entry["noise"]  # name, law and shape of each
        self.golden: str = entry["golden"]

    def run(self, inputs: list[Array]) -> list[Array]:
        """The action and the memory, in order."""
        return self._engine.run(inputs)[: self._own]

    def run_with_extras(self, inputs: list[Array]) -> tuple[list[Array], dict[str, Array]]:
        """The action and the memory, in order; the extras by name."""
        outputs = self._engine.run(inputs)
        return outputs[: self._own], dict(zip(self.extras, outputs[self._own :]))


class _OnnxEngine:
    """A session of ONNX Runtime on the CPU."""

    def __init__(self, path: Path, model: bytes, threads: int):
        """path: where the model is from, for messages."""
        try:
            import onnxruntime
        except ImportError:
            raise InputError(
                f"{path}: needs ONNX Runtime: pip install tether-runtime[onnx], or export with --format numpy"
            ) from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors only
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions have no public base class
            raise InputError(f"{path}: ONNX Runtime {onnxruntime.__version__} refuses it: {error}") from error
        self._names = [each.name for each in self._session.get_inputs()]

    def run(self, inputs: list[Array]) -> list[Array]:
        return [np.asarray(array) for array in self._session.run(None, dict(zip(self._names, inputs)))]


def make_graph(folder: Path, document: dict[str, Any], number: int, threads: int) -> Graph:
    """Graph `number` of a folder, ready to run.

    Raises InputError where ONNX Runtime is needed and not there, and where a file is no longer the document's.
    """
    entry = document["graphs"][number]
    path = folder / entry["file"]
    content = read_file(folder, document, path.name)
    if document["format"] == "onnx":
        engine: Engine = _OnnxEngine(path, content, threads)
    else:
        engine = Program.load(content, read_file(folder, document, path.with_suffix(".npz").name), path)
    return Graph(engine, entry, len(document["memory"]))
