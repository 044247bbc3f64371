"""Keep the best policy of a run, a callback."""

from pathlib import Path
from typing import Any

from tether.errors import unknown
from tether.machine.reading import parse_json, read_bytes
from tether.runs.callbacks import VALIDATION, Callback, Row, RunInfo, check_validated, lane_means

__all__ = ["KeepBest"]

METRICS = ("score", "return", "length")


class KeepBest(Callback):
    """Keep the policy with the best `metric` of all lanes and evaluations so far in a folder of the run, from which
    `tether.load_policy(run_folder / "policy-best")` loads it.

    The value is the mean of that evaluation's episodes, and the policy is chosen by it: played again it will do worse
    on average. The notes in its policy.json say update, lane, metric and value.
    """

    def __init__(self, metric: str = "score", *, higher_is_better: bool = True, folder: str = "policy-best"):
        """metric: "score", "return" or "length", or a loss on held-out episodes such as "validation/actor/loss" (then
        with `higher_is_better=False`). Raises: InputError for another one."""
        if metric not in METRICS and not metric.startswith(VALIDATION):
            raise unknown("metric to keep the best policy by", metric, METRICS)
        self.metric, self.higher_is_better, self.folder = metric, higher_is_better, folder
        self.needs_evaluations = metric in METRICS
        self._run: RunInfo | None = None
        self._kept: dict[str, Any] | None = None  # the notes of the policy that is kept

    def on_start(self, run: RunInfo) -> None:
        """Recall what is kept already, where it was kept by the same metric: no other compares with it."""
        check_validated(self.metric, run)
        kept = _notes_of(run.folder / self.folder)
        self._run, self._kept = run, kept if kept is not None and kept["metric"] == self.metric else None

    def on_evaluation(self, rows: list[Row]) -> None:
        """Keep the best lane's policy where it is better than what is kept."""
        if not self.metric.startswith(VALIDATION):
            self._look(rows)

    def on_metrics(self, rows: list[Row]) -> None:
        """The same by a loss on held-out episodes, of the last phase."""
        assert self._run is not None
        if self.metric in rows[0] and rows[0]["phase"] == self._run.phases[-1][0]:
            self._look(rows)

    def _look(self, rows: list[Row]) -> None:
        assert self._run is not None
        values = lane_means(rows, self.metric)
        if not values:
            return
        sign = 1.0 if self.higher_is_better else -1.0
        lane = max(values, key=lambda lane: sign * values[lane])
        notes = {"update": rows[0]["update"], "metric": self.metric, "value": values[lane]}
        # A resumed run plays evaluations again that are newer than its checkpoint: what was kept of one is kept anew.
        again = self._kept is not None and self._kept["update"] == notes["update"]
        better = self._kept is None or sign * notes["value"] > sign * self._kept["value"]
        if (again or better) and self._run.save_policy(self._run.folder / self.folder, lane, **notes):
            self._kept = notes


def _notes_of(folder: Path) -> dict[str, Any] | None:
    """Update, metric and value of a policy that this callback has kept; None where there is none."""
    try:
        notes = parse_json(read_bytes(folder / "policy.json"))["notes"]
        return {"update": int(notes["update"]), "metric": notes["metric"], "value": float(notes["value"])}
    except (OSError, ValueError, KeyError, TypeError):  # nothing yet, or what no version of this wrote
        return None
