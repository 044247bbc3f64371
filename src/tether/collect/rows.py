"""Rows that are being collected: in memory, and safe on the disk up to the last save.

Rows come in blocks (an episode, a stretch of a stream). What a block holds depends on the seed and its number alone, so
whatever a kill takes is collected again, bit for bit.

    rows-000000000-000010000-000012.safetensors     rows 0 to 9999, after which 12 blocks are done
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from tether.errors import InputError
from tether.machine.files import atomic_write_bytes

__all__ = ["Columns", "Log", "Recorder", "joined"]

Columns = dict[str, np.ndarray]
"""Name -> (rows, ...): observations, actions, rewards, next_observations, terminals, timeouts, infos/..."""


def joined(parts: list[Columns], rows: int | None = None) -> Columns:
    """The first `rows` rows of parts, one below the other; a last row that ends nothing is marked as cut off there."""
    columns = {name: column[:rows] for name, column in _stacked(parts).items()}
    if not (columns["terminals"][-1] or columns["timeouts"][-1]):
        columns["timeouts"][-1] = True
    return columns


def _stacked(parts: list[Columns]) -> Columns:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


class Recorder:
    """The rows of one block, step by step."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def add(self, environment: Any, observation: np.ndarray, action: np.ndarray) -> None:
        """What is known before the step: also where a simulator of MuJoCo stands."""
        row = {"observations": np.asarray(observation, np.float32), "actions": np.asarray(action, np.float32)}
        data: Any = getattr(environment.unwrapped, "data", None)
        if hasattr(data, "qpos") and hasattr(data, "qvel"):
            row |= {"infos/qpos": data.qpos.copy(), "infos/qvel": data.qvel.copy()}
        self.rows.append(row)

    def finish(self, next_observation: np.ndarray, reward: Any, terminated: bool, truncated: bool, info: Any) -> None:
        """What the step gave. A row that is both terminal and at the horizon is terminal."""
        row = self.rows[-1]
        row["rewards"] = np.float32(reward)
        row["next_observations"] = np.asarray(next_observation, np.float32)
        row["terminals"], row["timeouts"] = bool(terminated), bool(truncated and not terminated)
        success = info.get("success", info.get("is_success"))
        if success is not None:
            row["infos/success"] = bool(success)

    def columns(self, start: int = 0) -> Columns:
        """The rows from number `start` on."""
        names = self.rows[-1]
        rows = self.rows[start:]
        missing: dict[str, Any] = {"infos/success": False}  # some environments tell it at the end only
        return {name: np.stack([np.asarray(row.get(name, missing.get(name))) for row in rows]) for name in names}


class Log:
    """Columns that grow by blocks. `save` makes what is there safe; `restore` brings back what was."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.blocks = 0
        self.parts: list[Columns] = []
        self.rows = 0
        self._saved_rows, self._saved_parts = 0, 0

    def append(self, block: Columns) -> None:
        """One block."""
        self.parts.append(block)
        self.rows += len(block["rewards"])
        self.blocks += 1

    def save(self) -> None:
        """Write what was appended since the last time, whole or not at all. Raises OSError."""
        new = self.parts[self._saved_parts :]
        if not new:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        name = f"rows-{self._saved_rows:09d}-{self.rows:09d}-{self.blocks:06d}.safetensors"
        atomic_write_bytes(self.folder / name, safetensors.numpy.save(_stacked(new)))
        self._saved_rows, self._saved_parts = self.rows, len(self.parts)

    def restore(self, rows: int | None = None) -> None:
        """Read the first `rows` rows (all that are there); files beyond them go. Raises InputError for damage."""
        for path in sorted(self.folder.glob("rows-*.safetensors")):
            found = re.fullmatch(r"rows-(\d+)-(\d+)-(\d+)", path.stem)
            start, stop, blocks = map(int, found.groups()) if found else (-1, -1, -1)
            if start != self.rows or (rows is not None and stop > rows):
                path.unlink()
                continue
            try:
                self.parts.append(safetensors.numpy.load(path.read_bytes()))
            except (safetensors.SafetensorError, ValueError) as error:
                raise InputError(f"{path}: damaged: {error}; remove it and what comes after it") from None
            self.rows, self.blocks = stop, blocks
        if rows is not None and self.rows != rows:
            raise InputError(f"{self.folder}: holds {self.rows} rows, its checkpoint {rows}; remove the folder")
        self._saved_rows, self._saved_parts = self.rows, len(self.parts)

    def columns(self, rows: int | None = None) -> Columns:
        """The first `rows` rows (all)."""
        return joined(self.parts, rows)

    def discard(self) -> None:
        """Remove the files."""
        for path in self.folder.glob("rows-*.safetensors"):
            path.unlink()
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()


def summary(columns: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Returns and lengths of the episodes that ended."""
    ends = np.flatnonzero(columns["terminals"] | columns["timeouts"]) + 1
    starts = np.concatenate([[0], ends[:-1]])
    returns = np.add.reduceat(columns["rewards"][: ends[-1]].astype(np.float64), starts)
    numbers = {"mean": returns.mean(), "std": returns.std(), "min": returns.min(), "max": returns.max()}
    found = {"episodes": float(len(ends)), "length_mean": float(np.mean(ends - starts))}
    return found | {f"return_{name}": float(value) for name, value in numbers.items()}
