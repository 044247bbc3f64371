"""What a run tells while it trains, and to whom: the protocol of callbacks.

    start -> (metrics | evaluation | checkpoint)* -> end

The run's own records (metrics.jsonl, evaluations.jsonl) and its progress display are callbacks, the first of every run,
so what others hear is on the disk already. Callbacks hear plain numbers and words, each a copy of its own: nothing that
one does to them changes a number of the run. They are called where training stands still anyway: where a row of metrics
is due, an evaluation is in, a checkpoint is written. Of several processes only the first calls them.
"""

import copy
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tether.errors import InputError, unknown
from tether.evaluation.statistics import Statistic, statistic_of

__all__ = [
    "VALIDATION",
    "Callback",
    "Callbacks",
    "Row",
    "RunInfo",
    "by_update",
    "check_callbacks",
    "check_validated",
    "lane_means",
    "score_of",
    "scores_by_update",
    "statistic_of_run",
]

VALIDATION = "validation/"
"""Beginning of the names of losses on held-out episodes."""
Row = dict[str, Any]
"""A line of metrics.jsonl or evaluations.jsonl."""


@dataclasses.dataclass(frozen=True)
class RunInfo:
    """A run that is about to train, or to go on."""

    folder: Path
    config: dict[str, Any]  # what config.json holds
    phases: tuple[tuple[str, int], ...]  # (name, updates) in their order; the last one is evaluated
    resumed: bool  # whether it goes on from a checkpoint
    metrics: list[Row]  # of before; empty where the run begins
    evaluations: list[Row]  # of before, in the order of updates
    applied: int  # training has acted on the evaluations up to this update, and has still to act on later ones
    save_policy: Callable[..., bool]
    """save_policy(folder, lane, **notes): write a policy folder, inside `on_evaluation` of the policy that was just
    evaluated, inside `on_metrics` of the policy as it is. False, and nothing is written, where `lane` is not in that
    evaluation or has diverged, and inside `on_metrics` of a run of several processes. Raises: OSError."""

    def step(self, phase: str, update: int) -> int:
        """Updates since the run began, those of earlier phases counted: one axis for all curves."""
        names = [name for name, _ in self.phases]
        return sum(updates for _, updates in self.phases[: names.index(phase)]) + update


class Callback:
    """Hears of a run while it trains; override what is wanted.

    The first three may return why the run should end here, one sentence; None lets it go on. A run that was ended has
    the status "stopped-early", its policies, and can be resumed. An exception ends the run and can be resumed, too.

    A callback is not stored with a run: to resume a run with it, give it to `tether.resume` again. What it has to
    remember it takes from `run.metrics` and `run.evaluations` in `on_start`, or from files of its own in `run.folder`;
    rows that are newer than the checkpoint come again, with the same numbers.
    """

    needs_evaluations: bool = False
    """Whether it can do nothing in a run that is not evaluated, which then refuses it."""

    def on_start(self, run: RunInfo) -> str | None:
        """Before the first update, of a resumed run before the next."""

    def on_metrics(self, rows: list[Row]) -> str | None:
        """Every `log_every_updates` updates: means since the last rows, {"phase", "update", "lane", NAME: value, ...}
        for each living lane. What is not finite is None. Where episodes are held out, every `eval_every_updates`
        updates with "validation/NAME" beside each NAME."""

    def on_evaluation(self, rows: list[Row]) -> str | None:
        """An evaluation is in, in the order of updates: {"update", "lane", "episode", "return", "length",
        "normalized_score"} for each episode; the last is None where the task has no reference scores.

        Evaluations may be played beside training. So that a run does not depend on how fast, one that asks to stop
        stops it where training acts on this evaluation: right before the second one after it (docs/evaluation.md)."""

    def on_checkpoint(self, path: Path, phase: str, update: int) -> None:
        """A checkpoint is complete in the folder `path`."""

    def on_end(self, status: str, result: dict[str, Any] | None) -> None:
        """The run is over.

        status: "done", "stopped-early", "partly-diverged", "diverged"; "interrupted" by a signal, or "failed".
        result: what result.json holds; None for the last two."""


class Callbacks:
    """The callbacks of a run. Inside `with`, those that have heard of its start hear of its end, however it comes."""

    def __init__(self, callbacks: Sequence[Callback]):
        self._all = tuple(callbacks)
        self._started = False

    def start(self, run: RunInfo) -> str | None:
        """`on_start` of all; the first reason to stop."""
        self._started = True
        return self.tell("on_start", run)

    def tell(self, event: str, *content: Any) -> str | None:
        """Call the method `event` of all of them, in order, each with a copy; the first reason to stop.

        Raises: what a callback raises; TypeError where it returns neither a reason nor None.
        """
        reasons = []
        for callback in self._all:
            reason = getattr(callback, event)(*copy.deepcopy(content))
            if not isinstance(reason, str | None):
                name = f"{type(callback).__qualname__}.{event}"
                raise TypeError(f"{name} returned {reason!r}: return why the run should stop, or None")
            reasons.append(reason)
        return next((reason for reason in reasons if reason is not None), None)

    def end(self, status: str, result: dict[str, Any] | None) -> None:
        """`on_end` of all, once."""
        if self._started:
            self._started = False
            self.tell("on_end", status, result)

    def __enter__(self) -> "Callbacks":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if error is None:
            return
        try:
            self.end("interrupted" if isinstance(error, KeyboardInterrupt) else "failed", None)
        except Exception as second:  # the first one is what matters
            error.add_note(f"a callback failed at the end, too: {type(second).__name__} {second}")


def check_callbacks(callbacks: Any, evaluated: bool = True) -> list[Callback]:
    """All of them, also of a generator. Raises: InputError for what is no callback, or in a run that is not evaluated
    could never act."""
    if isinstance(callbacks, Callback) or not isinstance(callbacks, Iterable):
        raise InputError(f"callbacks: a {type(callbacks).__name__}; give a list of them")
    callbacks = list(callbacks)
    for callback in callbacks:
        if not isinstance(callback, Callback):
            raise InputError(f"callback {callback!r}: give an instance of a subclass of tether.Callback")
        if callback.needs_evaluations and not evaluated:
            raise InputError(
                f"callback {type(callback).__name__}: acts on evaluations, and this run has none; name an environment "
                "(environment=...), or a metric of training where it takes one, or leave it out"
            )
    return callbacks


def check_validated(metric: str, run: RunInfo) -> None:
    """Raises: InputError for a loss on held-out episodes in a run that holds none out."""
    if metric.startswith(VALIDATION) and run.config["data"].get("holdout", {"name": "none"})["name"] == "none":
        raise InputError(f"metric {metric!r}: this run holds no episodes out; train with --holdout 0.1")


def score_of(row: Mapping[str, Any]) -> float:
    """Score of an episode's row in evaluations.jsonl: normalised, or where its task has no references the return."""
    return float(row["return"] if row["normalized_score"] is None else row["normalized_score"])


def scores_by_update(rows: Sequence[Row], lanes: Sequence[int] | None = None) -> dict[int, np.ndarray]:
    """update -> scores (lanes, episodes) of the given lanes, in this order; by default of all that it has.

    An evaluation that is not whole, because one of the given lanes lacks episodes, is left out.
    """
    table: dict[int, dict[int, list[float]]] = {}
    for row in rows:
        if lanes is None or row["lane"] in lanes:
            table.setdefault(row["update"], {}).setdefault(row["lane"], []).append(score_of(row))
    episodes = max((len(scores) for by_lane in table.values() for scores in by_lane.values()), default=0)
    if lanes is not None:
        table = {u: found for u, found in table.items() if all(len(found.get(lane, ())) == episodes for lane in lanes)}
    return {
        update: np.asarray([by_lane[lane] for lane in (by_lane if lanes is None else lanes)])
        for update, by_lane in table.items()
    }


def statistic_of_run(rows: Sequence[Mapping[str, Any]]) -> Statistic:
    """What sums up every evaluation of the run with these rows of evaluations.jsonl: one statistic for all of them, so
    that the end of its curve is what its tables say."""
    return statistic_of(np.array([score_of(row) for row in rows]))


def by_update(rows: Sequence[Row]) -> Iterator[tuple[int, list[Row]]]:
    """(update, its rows), in the order of the first of each."""
    groups: dict[int, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["update"], []).append(row)
    return iter(groups.items())


def lane_means(rows: Sequence[Row], name: str) -> dict[int, float]:
    """Lane -> mean of `name` over its rows; "score" is `score_of`. Lanes with a value that is not finite are left out.

    Raises: InputError where the rows have no such number.
    """
    found: dict[int, list[float | None]] = {}
    for row in rows:
        if name != "score" and name not in row:
            numbers = {key for key, value in row.items() if isinstance(value, float)}
            raise unknown("metric", name, {"score", "return", "length"} | numbers)
        found.setdefault(row["lane"], []).append(score_of(row) if name == "score" else row[name])
    finite = {lane: [value for value in values if value is not None] for lane, values in found.items()}
    return {lane: sum(values) / len(values) for lane, values in finite.items() if len(values) == len(found[lane])}
