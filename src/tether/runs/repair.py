"""`tether resume RUN --repair`: the logs of a run without what is damaged in them, and what they then lack."""

from collections.abc import Iterator
from typing import Any

import jax

from tether.errors import InputError
from tether.runs.jsonlines import JsonLines
from tether.runs.run import Run

__all__ = ["repair_logs"]

MOST_NAMED = 5  # of missing rows


def repair_logs(run: Run) -> list[str]:
    """Bring the logs of a restored run into order: whole rows stay, the damaged file is kept under another name.

    An evaluation that lacks rows is played again if it is the last one of a run at its end, whose policies are still
    there. A checkpoint is written that goes with the new logs. Returns what was done, in words.
    Raises: InputError among several processes; OSError; CheckpointError.
    """
    if jax.process_count() > 1:
        raise InputError(f"{run.plan.folder}: --repair is for one process alone; train on with several afterwards")
    try:
        run.check_logs()
    except InputError:
        said = [
            *_repair(run.records.metrics, run, set(_expected_metrics(run)), ("phase", "update", "lane")),
            *_repair(run.records.evaluations, run, set(_expected_evaluations(run)), ("update", "lane", "episode")),
        ]
        run.save()
        return said
    return ["nothing to repair: both logs are what they were at the checkpoint"]


def _repair(log: JsonLines, run: Run, expected: set[Any], names: tuple[str, ...]) -> list[str]:
    """names: the columns that tell a row from all others."""
    rows, damaged = log.read_whole()
    kept: dict[Any, dict[str, Any]] = {}
    for row in filter(run.wrote, rows):  # those of two processes that wrote at once stand twice
        kept.setdefault(tuple(row[name] for name in names), row)
    said = [f"{log.path.name}: {damage}: left out" for damage in damaged]
    lacking = sorted(expected - kept.keys())
    if lacking:
        named = [", ".join(f"{name} {value}" for name, value in zip(names, key, strict=True)) for key in lacking]
        more = [f"and {len(lacking) - MOST_NAMED} more"] if lacking[MOST_NAMED:] else []
        said.append(f"{log.path.name}: {len(lacking)} rows are missing: {'; '.join(named[:MOST_NAMED] + more)}")
    last = run.position.update
    if log is run.records.evaluations and any(update == last for update, *_ in lacking) and run.play_last_again():
        kept = {key: row for key, row in kept.items() if row["update"] < last}
        said.append(f"{log.path.name}: update {last:,} is evaluated again")
    aside = log.set_aside()
    log.replace(list(kept.values()))
    return [*said, f"{log.path.name}: {len(kept):,} rows kept" + (f"; as it was: {aside.name}" if aside else "")]


def _expected_metrics(run: Run) -> Iterator[tuple[str, int, int]]:
    """(phase, update, lane) of the rows that there must be; there may be more, at the ends of phases."""
    phases, every = run.plan.phases(), run.plan.options.log_every_updates
    for number, (phase, updates) in enumerate(phases[: run.position.phase + 1]):
        is_last = number == len(phases) - 1
        if run.plan.finetuning is not None and not is_last:  # its parent's, in which those rows are
            continue
        begin = run.first_update if is_last else 0
        done = run.position.update if number == run.position.phase else updates
        for lane in range(len(run.plan.lanes)):
            due = range(begin + every, done + 1, every)
            yield from ((phase, update, lane) for update in due if run.lived(lane, phase, update))


def _expected_evaluations(run: Run) -> Iterator[tuple[int, int, int]]:
    """(update, lane, episode) of the rows that there must be; not of lanes whose return was not finite at some time."""
    first = min((row["update"] for row in run.records.evaluations.read_whole()[0]), default=0)
    every, (phase, _) = run.plan.options.eval_every_updates, run.plan.phases()[-1]
    updates = {*range(run.first_update, run.evaluated + 1, every), run.evaluated} - run.queue.missing
    for update in sorted(update for update in updates if update >= max(first, 1)):
        for lane in range(len(run.plan.lanes)):
            if lane not in run.queue.lost and run.lived(lane, phase, update):
                yield from ((update, lane, episode) for episode in range(run.plan.options.eval_episodes))
