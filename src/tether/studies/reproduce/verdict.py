"""Whether scores agree with a published number: inside its band, below, above, or not comparable and why.

A pure function of scores and band. It says what was measured, how sure that is, and what keeps the two from being quite
the same thing; it never rounds a miss into a hit.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from tether.errors import InputError
from tether.evaluation.statistics import stratified_bootstrap_interval
from tether.studies.reproduce.bands import Number, PublishedTable

__all__ = ["Band", "Verdict", "band_of", "judge"]

Word = Literal["inside", "below", "above", "not comparable"]


class Band(NamedTuple):
    """Where a reproduction lies."""

    value: float
    low: float
    high: float
    rule: str  # how low and high come about, in words


class Verdict(NamedTuple):
    """What became of a comparison."""

    word: Word
    reason: str  # in one sentence
    certain: bool = False  # whether our whole 95 % interval lies on the side that `word` names
    measured: float | None = None  # mean over seeds and episodes
    low: float | None = None  # its 95 % interval, over seeds and episodes
    high: float | None = None
    band: Band | None = None
    reservations: tuple[str, ...] = ()

    def to_json(self) -> dict:
        """Plain values."""
        return self._asdict() | {"band": self.band and self.band._asdict(), "reservations": list(self.reservations)}


def band_of(number: Number, table: PublishedTable) -> Band | str:
    """The band around a published number; or, in words, why there is none."""
    if number.value is None:
        return "published as a picture only, without numbers"
    rule, _, size = table.band.partition(" ")
    if rule == "interval":
        if number.low is None or number.high is None:
            return "its interval is not published"
        return Band(number.value, number.low, number.high, f"the published {table.spread}")
    if rule == "points":
        width = float(size)
        return Band(number.value, number.value - width, number.value + width, f"within {width:g} points")
    if rule == "deviations":
        if number.spread is None:
            return "its spread is not published"
        width = float(size) * number.spread
        words = f"within {size} published deviations of {number.spread:g} ({table.spread})"
        return Band(number.value, number.value - width, number.value + width, words)
    return f"{table.unit}: costs of another machine are no goal" if not rule else f"unknown rule {table.band!r}"


def judge(
    scores: np.ndarray | None,
    band: Band | str,
    *,
    at: int | None = None,
    obstacle: str = "",
    reservations: Sequence[str] = (),
) -> Verdict:
    """The verdict on scores.

    scores: (seeds, episodes), in the band's unit; None where nothing is measured.
    band: or why there is none.
    at: the updates of training that both are after, where that is not the end.
    obstacle: what makes the comparison meaningless, such as fewer updates; empty if nothing does.
    reservations: what a reader must know beside the word.
    Raises InputError for scores of another shape.
    """
    notes = tuple(reservations)
    if scores is None or scores.size == 0:
        return Verdict("not comparable", obstacle or "nothing is measured yet", reservations=notes)
    scores = np.asarray(scores, np.float64)
    if scores.ndim != 2:
        raise InputError(f"scores: must be (seeds, episodes), not of shape {scores.shape}")
    alive = np.isfinite(scores).all(axis=1)
    if not alive.any():
        return Verdict("not comparable", f"all {len(scores)} seeds diverged or were not evaluated", reservations=notes)
    if not alive.all():
        lost = f"{np.sum(~alive)} of {len(scores)} seeds"
        notes += (f"{lost} diverged or were not evaluated, and are left out",)
    mean = float(scores[alive].mean())
    low, high = stratified_bootstrap_interval(scores[alive], np.mean)
    if isinstance(band, Band) and band.low == band.high:
        notes += ("published without any spread: a single episode decides",)
    if alive.sum() == 1:
        notes += ("one seed: its interval says nothing of others",)
    measured = {"measured": mean, "low": low, "high": high, "reservations": notes}
    if obstacle or isinstance(band, str):
        known = None if isinstance(band, str) else band
        return Verdict("not comparable", obstacle or str(band), band=known, **measured)
    word: Word = "below" if mean < band.low else "above" if mean > band.high else "inside"
    certain = {
        "below": high < band.low,
        "above": low > band.high,
        "inside": band.low <= low and high <= band.high,
    }[word] and scores[alive].size > 1  # a single episode has no interval
    found = f"{mean:.1f} [{low:.1f}, {high:.1f}]" + ("" if at is None else f" at {at:,} updates")
    return Verdict(word, _sentence(word, certain, found, band), certain, band=band, **measured)


def _sentence(word: Word, certain: bool, found: str, band: Band) -> str:
    goal = f"{band.value:.1f} ({band.low:.1f} to {band.high:.1f}: {band.rule})"
    if word == "inside":
        return f"{found} is inside {goal}" + ("" if certain else ", as far as the interval tells: it reaches out of it")
    return f"{found} is {word} {goal}" + ("" if certain else ", but not for certain: the interval reaches into it")
