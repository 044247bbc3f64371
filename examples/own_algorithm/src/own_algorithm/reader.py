"""`jsonl:FILE`: episodes as JSON lines, one object a line.

{"observations": [[...], ...], "actions": [[...], ...], "rewards": [...], "terminated": true}

There is one observation more than actions, or as many. `terminated`: whether the task ended with the last step; it was
cut there otherwise.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tether import Dataset, InputError

__all__ = ["read_jsonl"]


def read_jsonl(name: str) -> Dataset:
    """The data set of `jsonl:NAME`. Raises InputError for a file that cannot be read, naming the line."""
    return Dataset.from_episodes(_episodes(Path(name)), name=Path(name).stem)


def _episodes(path: Path) -> Iterator[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"jsonl:{path}: cannot be read: {error.strerror or error}") from None
    for number, line in enumerate(lines, 1):
        try:
            episode = json.loads(line)
            columns = {name: np.asarray(episode[name], np.float32) for name in ("observations", "actions", "rewards")}
            yield {**columns, "terminals": bool(episode.get("terminated", False))}
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(f"jsonl:{path}: line {number}: {type(error).__name__} {error}") from None
