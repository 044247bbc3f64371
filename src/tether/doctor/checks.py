"""The registry: every check, in the order in which they run, with the columns that it needs."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from tether.doctor import columns, episodes, leaks, rewards, sensors
from tether.doctor.findings import CODES, GRADES, Finding, Purpose
from tether.doctor.logged import Logged

__all__ = ["CHECKS", "Check", "run_checks"]


class Check(NamedTuple):
    """A function from the data to findings; it is left out where one of the columns `needs` cannot be used, or where
    the data are for another than its `only` purpose."""

    run: Callable[[Logged], Iterable[Finding]]
    needs: tuple[str, ...] = ()
    only: Purpose | None = None

    @property
    def name(self) -> str:
        return self.run.__name__.replace("_", " ")

    def wanted(self, data: Logged) -> bool:
        return self.only in (None, data.purpose)

    def possible(self, data: Logged) -> bool:
        return not self.needs or data.has(*self.needs)


OBSERVATIONS, ACTIONS, REWARDS = ("observations",), ("actions",), ("rewards",)
PAIR = (*OBSERVATIONS, *ACTIONS)
ALL = (*PAIR, *REWARDS)
RL: Purpose = "offline-rl"

CHECKS: tuple[Check, ...] = (
    Check(columns.missing_columns),
    Check(columns.missing_rewards),
    Check(columns.not_numbers),
    Check(columns.unequal_rows),
    Check(columns.wrong_rank),
    Check(columns.column_vectors),
    Check(columns.double_precision),
    Check(columns.not_finite),
    Check(columns.bad_flags),
    Check(columns.size_of_task, PAIR),
    Check(episodes.counts_of_published),
    Check(columns.out_of_range, ACTIONS),
    Check(columns.saturated_actions, ACTIONS),
    Check(columns.unused_action_range, ACTIONS),
    Check(columns.discrete_actions, ACTIONS),
    Check(columns.constant_columns),
    Check(columns.duplicated_columns),
    Check(columns.observation_scale, OBSERVATIONS),
    Check(columns.outliers),
    Check(sensors.error_codes, OBSERVATIONS),
    Check(sensors.frozen_columns, OBSERVATIONS),
    Check(columns.already_standardised),
    Check(columns.deterministic_behaviour, PAIR),
    Check(leaks.action_in_observation, PAIR),
    Check(columns.few_states, OBSERVATIONS),
    Check(episodes.missing_ends),
    Check(episodes.unfinished_last_episode),
    Check(episodes.transitions_left),
    Check(episodes.terminal_and_timeout, (), RL),
    Check(episodes.terminals_at_horizon, OBSERVATIONS, RL),
    Check(episodes.order_of_rows, OBSERVATIONS),
    Check(episodes.teleports, OBSERVATIONS),
    Check(episodes.next_observations, OBSERVATIONS, RL),
    Check(episodes.next_observation_after_end, OBSERVATIONS, RL),
    Check(episodes.timeouts_that_go_on, OBSERVATIONS),
    Check(episodes.terminals_that_go_on, OBSERVATIONS),
    Check(episodes.cut_episodes, OBSERVATIONS, RL),
    Check(episodes.long_episodes),
    Check(episodes.one_step_episodes),
    Check(episodes.episode_ids),
    Check(episodes.duplicates_of_episodes, PAIR),
    Check(episodes.duplicated_rows, PAIR),
    Check(episodes.repeated_rows, PAIR),
    Check(episodes.time_stamps),
    Check(rewards.constant_reward, REWARDS, RL),
    Check(rewards.reward_scale, REWARDS, RL),
    Check(rewards.few_rewards, REWARDS, RL),
    Check(rewards.repaid_rewards, REWARDS, RL),
    Check(rewards.returns_of_task, REWARDS, RL),
    Check(rewards.reward_shifted, ALL, RL),
    Check(rewards.sparse_reward_shifted, REWARDS, RL),
    Check(rewards.reward_of_state, ALL, RL),
    Check(rewards.actions_shifted, PAIR),
    Check(rewards.family_rules, (*OBSERVATIONS, *REWARDS), RL),
)


def _in_source(finding: Finding, source_rows: np.ndarray | None) -> Finding:
    """`finding` with the numbers that its rows have in the source."""
    if source_rows is None:
        return finding
    rows = tuple(sorted(source_rows[list(finding.place.rows)].tolist()))
    return replace(finding, place=replace(finding.place, rows=rows))


def run_checks(data: Logged, progress: Callable[[str], None] = lambda name: None) -> list[Finding]:
    """What every possible check finds, the gravest first; `progress` is told the name of each check as it starts."""
    found = list(data.raw.findings)
    for check in CHECKS:
        if check.wanted(data) and check.possible(data):
            progress(check.name)
            found.extend(_in_source(finding, data.raw.source_rows) for finding in check.run(data))
    order = list(CODES)
    return sorted(found, key=lambda finding: (GRADES.index(finding.grade), order.index(finding.code)))
