"""A sample of the data's decisions, cut by whole episodes into parts that share none: what the trust in a policy's
decisions is fitted to and calibrated on (`tether.trust`).

Rows of an episode resemble each other, so they say little about how foreign the rows of another one look. What is
calibrated on are therefore episodes of which nothing was fitted: those held out from training where there are any, else
a part of the others. Few long episodes are cut into stretches first.
"""

from typing import Any, NamedTuple

import numpy as np

from tether.data.dataset import Dataset, recordings_of
from tether.types import Float, Int

__all__ = ["CALIBRATION", "FITTING", "SCALING", "Decisions", "sample_decisions"]

FITTING, SCALING, CALIBRATION = 0, 1, 2
"""What a decision is for: to be looked up and fitted, to tell the size of scores, to be counted against."""
SCALING_SHARE, CALIBRATION_SHARE = 0.13, 0.32  # of the pieces; those fitted are the rest
MOST_ROWS = (100_000, 4096, 10_000)  # of each part
FEWEST_EPISODES = 40  # of fewer, each is cut into stretches
STRETCHES = 200  # into so many, all together
SEED = 0  # the same data give the same parts in every run

Pieces = tuple[Int[np.ndarray, " pieces"], Int[np.ndarray, " pieces"], Int[np.ndarray, " pieces"]]
"""First row of each, the row after its last, and the number of the episode or stretch that it is of: episodes of which
rows are missing have several."""


class Decisions(NamedTuple):
    """Logged decisions, as the file has them."""

    observation: Float[np.ndarray, "rows observation"]
    action: Float[np.ndarray, "rows action"]  # in [-1, 1]
    part: Int[np.ndarray, " rows"]
    piece: Int[np.ndarray, " rows"]  # number of the episode, or stretch, within its part
    stretch_rows: int | None  # how long calibrating stretches are; None where they are whole episodes
    held_out: bool  # whether what is calibrated on was held out from training

    def of(self, part: int) -> "Decisions":
        """Those of one part."""
        rows = self.part == part
        return self._replace(
            observation=self.observation[rows], action=self.action[rows], part=self.part[rows], piece=self.piece[rows]
        )


def sample_decisions(dataset: Dataset, held_out: Dataset | None = None) -> Decisions | None:
    """At most some thousand rows for each part; None where there are too few rows for three parts."""
    generator = np.random.default_rng(SEED)
    pieces, stretch_rows = _pieces(dataset)
    order = generator.permutation(int(pieces[2].max()) + 1)
    scaling = max(1, round(SCALING_SHARE * len(order)))
    calibration = 0 if held_out is not None else max(1, round(CALIBRATION_SHARE * len(order)))
    if len(order) < scaling + calibration + 1:
        return None
    numbers = np.split(order, [calibration, calibration + scaling])
    chosen = [(dataset, pieces, numbers[2], FITTING), (dataset, pieces, numbers[1], SCALING)]
    if held_out is None:
        chosen.append((dataset, pieces, numbers[0], CALIBRATION))
    else:
        own, stretch_rows = _pieces(held_out)
        chosen.append((held_out, own, np.arange(int(own[2].max()) + 1), CALIBRATION))
    drawn: list[Any] = [_drawn(*each, generator) for each in chosen]
    observation, action, part, piece = (np.concatenate(column) for column in zip(*drawn, strict=True))
    return Decisions(observation, action, part, piece, stretch_rows, held_out is not None)


def _pieces(dataset: Dataset) -> tuple[Pieces, int | None]:
    """Every episode; or stretches of them, and how long these are, where episodes are few."""
    starts, ends, _ = dataset.episode_bounds()
    recording = recordings_of(dataset)
    if recording.max() + 1 >= FEWEST_EPISODES:
        return (starts, ends, recording), None
    rows = max(1, -(-len(dataset) // STRETCHES))
    cuts = [np.arange(start, end, rows) for start, end in zip(starts, ends, strict=True)]
    until = np.concatenate([np.append(cut[1:], end) for cut, end in zip(cuts, ends, strict=True)])
    return (np.concatenate(cuts), until, np.arange(len(until))), rows


def _drawn(
    dataset: Dataset, pieces: Pieces, numbers: np.ndarray, part: int, generator: np.random.Generator
) -> tuple[np.ndarray, ...]:
    """Observations, actions, part and piece of some rows of the pieces of these numbers, in the file's order."""
    numbers = np.sort(numbers)
    chosen = np.isin(pieces[2], numbers)
    starts, lengths = pieces[0][chosen], (pieces[1] - pieces[0])[chosen]
    piece = np.repeat(np.searchsorted(numbers, pieces[2][chosen]), lengths)
    rows = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths - starts, lengths)
    kept = np.sort(generator.permutation(len(rows))[: MOST_ROWS[part]])
    taken = rows[kept]
    return (
        dataset.observations[taken],
        dataset.actions[taken],
        np.full(len(kept), part, np.int8),
        piece[kept].astype(np.int32),
    )
