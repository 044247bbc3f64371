"""Early stopping, a callback."""

from tether.errors import InputError
from tether.runs.callbacks import VALIDATION, Callback, Row, RunInfo, by_update, check_validated, lane_means

__all__ = ["EarlyStopping"]

OF_EPISODES = ("score", "return", "length")  # what evaluations give; every other name is a training metric's


class EarlyStopping(Callback):
    """End a run when no lane's `metric` has got better for `patience_evaluations` evaluations.

    Each lane is compared with its own best; as all lanes are one program, training goes on as long as one of them still
    gets better. Resumed with the same `EarlyStopping`, a run stops where it would have without the interruption, and
    one that was stopped early ends at once; resumed without, it trains on.
    """

    def __init__(
        self,
        metric: str = "score",
        patience_evaluations: int = 5,
        *,
        higher_is_better: bool = True,
        least_gain: float = 0.0,
    ):
        """metric: "score", "return" or "length", mean of an evaluation's episodes; or a training metric of the last
            phase, such as "critic/q_loss", of held-out episodes "validation/critic/q_loss".
        patience_evaluations: of a training metric, the updates between so many evaluations.
        higher_is_better: False for losses.
        least_gain: by how much more than the best a value must be to be better.
        Raises: InputError for a patience below 1 or a negative gain."""
        if patience_evaluations < 1:
            raise InputError(f"patience_evaluations {patience_evaluations}: must be at least 1")
        if not least_gain >= 0:
            raise InputError(f"least_gain {least_gain}: must not be negative")
        self.metric, self.patience_evaluations = metric, patience_evaluations
        self.higher_is_better, self.least_gain = higher_is_better, least_gain
        self.needs_evaluations = self._of_episodes
        self._best: dict[int, tuple[int, float]] = {}  # lane -> (update, value)
        self._phase, self._patience_updates = "", 0

    def on_start(self, run: RunInfo) -> str | None:
        """Recall the best of before; out of patience already is a reason to stop."""
        check_validated(self.metric, run)
        self._best, self._phase = {}, run.phases[-1][0]
        self._patience_updates = self.patience_evaluations * run.config["settings"]["eval_every_updates"]
        reason = None
        for update, rows in by_update(run.evaluations if self._of_episodes else self._of_last_phase(run.metrics)):
            found = self._look(update, rows)
            if update <= run.applied or not self._of_episodes:  # the run knows what later evaluations asked for
                reason = found
        return reason

    def on_metrics(self, rows: list[Row]) -> str | None:
        """Look at a training metric."""
        rows = [] if self._of_episodes else self._of_last_phase(rows)
        return self._look(rows[0]["update"], rows) if rows else None

    def on_evaluation(self, rows: list[Row]) -> str | None:
        """Look at an evaluation."""
        return self._look(rows[0]["update"], rows) if self._of_episodes else None

    @property
    def _of_episodes(self) -> bool:
        return self.metric in OF_EPISODES

    def _of_last_phase(self, rows: list[Row]) -> list[Row]:
        rows = [row for row in rows if row["phase"] == self._phase]
        return [row for row in rows if self.metric in row] if self.metric.startswith(VALIDATION) else rows

    def _look(self, update: int, rows: list[Row]) -> str | None:
        lanes = {row["lane"] for row in rows}
        for lane, value in lane_means(rows, self.metric).items():
            if lane not in self._best or self._gain(value, self._best[lane][1]) > self.least_gain:
                self._best[lane] = update, value
        if any(update - self._best[lane][0] < self._patience_updates for lane in lanes if lane in self._best):
            return None
        if not any(lane in self._best for lane in lanes):  # nothing but what is not finite
            return None
        return f"no lane's {self.metric} got better for {self.patience_evaluations} evaluations"

    def _gain(self, value: float, best: float) -> float:
        return value - best if self.higher_is_better else best - value
