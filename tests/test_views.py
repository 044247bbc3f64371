"""Data views: what each gives on a small data set worked out by hand, and windows cut inside a compiled program."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tether.algorithms import ALGORITHMS
from tether.data import Dataset, Framing, Source, Trajectories, View, prepare, view_of
from tether.data.views import return_bounds, returns_to_go, step_returns
from tether.errors import InputError

# Episodes: rows 0-2 (terminal), 3-6 (time-out), 7 (both at once), 8-9 (no flag: partial).
ROWS = 10
TERMINALS = np.isin(np.arange(ROWS), [2, 7])
TIMEOUTS = np.isin(np.arange(ROWS), [6, 7])
OBSERVATIONS = 10.0 * np.arange(ROWS, dtype=np.float32)[:, None]
ACTIONS = (np.arange(ROWS, dtype=np.float32)[:, None] + 1) / 20
REWARDS = np.arange(1.0, ROWS + 1)


def dataset(**changes: Any) -> Dataset:
    columns = {
        "observations": OBSERVATIONS,
        "actions": ACTIONS,
        "rewards": REWARDS,
        "terminals": TERMINALS,
        "timeouts": TIMEOUTS,
        "next_observations": None,
    }
    return Dataset("ten", source=Source("memory", "0" * 64), **{**columns, **changes})


def test_plain_transitions_hold_no_extra_column() -> None:
    table = prepare(dataset()).transitions
    assert table.next_action is None
    assert table.return_to_go is None
    assert len(jax.tree.leaves(table)) == 5
    assert table.rows == 8  # without the time-out (row 6) and the last row


def test_sarsa_next_actions_stay_within_episodes() -> None:
    """Row by row: the file's next action, zero at a terminal, no row whose next action is another episode's."""
    data = dataset()
    table = prepare(data, view=View("sarsa")).transitions
    kept = (table.observation[:, 0] / 10).astype(int)
    np.testing.assert_array_equal(kept, [0, 1, 2, 3, 4, 5, 7, 8])
    expected = ACTIONS[kept + 1]
    expected[TERMINALS[kept]] = 0.0
    np.testing.assert_array_equal(table.next_action, expected)
    starts, ends, _ = data.episode_bounds()
    for row, terminal in zip(kept, table.terminal, strict=True):
        episode = np.searchsorted(ends, row, side="right")
        assert terminal == 1 or starts[episode] <= row + 1 < ends[episode]


@pytest.mark.parametrize("first", [0, 3, 7])
def test_sarsa_keeps_a_terminal_row_that_is_the_last_of_all(first: int) -> None:
    """Row 7, also where it is the only one."""
    data = dataset().select(np.arange(first, 8))
    table = prepare(data, view=View("sarsa")).transitions
    np.testing.assert_array_equal(table.observation[:, 0], [10.0 * row for row in range(first, 8) if row != 6])
    last = jax.tree.map(lambda column: column[-1].tolist(), table)
    assert (last.reward, last.terminal, last.next_action, last.next_observation) == (8.0, 1.0, [0.0], [70.0])


def test_sarsa_drops_time_outs_that_other_views_keep() -> None:
    exact = dataset(next_observations=OBSERVATIONS + 10, exact_next_observations=True)
    assert prepare(exact).transitions.rows == ROWS
    assert prepare(exact, view=View("sarsa")).transitions.rows == 8
    with pytest.raises(InputError, match="a timed-out row has no next action"):
        prepare(exact, keep_timeouts=True, view=View("sarsa"))


@pytest.mark.parametrize("discount", [1.0, 0.5, 0.0])
def test_returns_to_go_by_definition(discount: float) -> None:
    ends = dataset().episode_bounds().ends
    got = returns_to_go(REWARDS, ends, discount)
    for row in range(ROWS):
        rest = REWARDS[row : ends[np.searchsorted(ends, row, side="right")]]
        np.testing.assert_allclose(got[row], np.sum(discount ** np.arange(len(rest)) * rest), rtol=1e-12)


def test_returns_count_the_reward_of_the_dropped_time_out() -> None:
    """Row 5's return holds row 6's reward, which the table itself has lost; rewards are transformed first."""
    table = prepare(dataset(), "iql_antmaze", view=View("returns", discount=0.5)).transitions
    row = table.observation[:, 0].tolist().index(50.0)
    assert table.reward[row] == 5.0
    assert table.return_to_go[row] == 5.0 + 0.5 * 6.0
    terminal = table.observation[:, 0].tolist().index(20.0)
    assert table.return_to_go[terminal] == 2.0


def windows(indices: list[int], steps: int = 3) -> tuple[Trajectories, Any]:
    data = prepare(dataset(), view=View("trajectories", steps=steps)).transitions
    assert isinstance(data, Trajectories)
    data = jax.tree.map(jnp.asarray, data)
    return data, jax.jit(lambda data, rows: data.take(rows))(data, jnp.asarray(indices, jnp.int32))


def test_trajectories_are_the_complete_episodes() -> None:
    data, _ = windows([0])
    assert data.rows == 8  # the partial episode is left out
    np.testing.assert_array_equal(data.timestep, [0, 1, 2, 0, 1, 2, 3, 0])
    np.testing.assert_array_equal(data.left, [3, 2, 1, 4, 3, 2, 1, 1])
    np.testing.assert_array_equal(data.return_to_go, [6, 5, 3, 22, 18, 13, 7, 8])
    partial = dataset(terminals=np.zeros(ROWS, bool), timeouts=np.zeros(ROWS, bool))
    assert prepare(partial, view=View("trajectories")).transitions.rows == ROWS  # the only one there is


def test_windows_end_with_their_episode() -> None:
    _, batch = windows([3, 5, 2, 7])
    np.testing.assert_array_equal(batch.valid, [[1, 1, 1], [1, 1, 0], [1, 0, 0], [1, 0, 0]])
    np.testing.assert_array_equal(batch.observation[..., 0], [[30, 40, 50], [50, 60, 0], [20, 0, 0], [70, 0, 0]])
    np.testing.assert_allclose(batch.action[1, :, 0], [0.3, 0.35, 0.0])
    np.testing.assert_array_equal(batch.return_to_go, [[22, 18, 13], [13, 7, 0], [3, 0, 0], [8, 0, 0]])
    np.testing.assert_array_equal(batch.timestep, [[0, 1, 2], [2, 3, 0], [2, 0, 0], [0, 0, 0]])


def test_trajectories_are_normalised_over_every_row_and_keep_their_rewards() -> None:
    prepared = prepare(dataset(), "none", "standardise", view=View("trajectories", steps=2))
    data = prepared.transitions
    assert isinstance(data, Trajectories)
    assert prepared.record["transitions"] == 8
    np.testing.assert_allclose(prepared.normaliser.mean, OBSERVATIONS[:8].mean(axis=0))
    np.testing.assert_allclose(data.observation.mean(), 0.0, atol=1e-6)
    with pytest.raises(InputError, match=r"'standardise'.*the environment's own rewards"):
        prepare(dataset(), "standardise", view=View("trajectories"))


def test_algorithms_declare_views() -> None:
    views = {name: view_of(algorithm()) for name, algorithm in ALGORITHMS.items()}
    assert views["dtql"] == View()
    assert views["onestep"] == views["rebrac"] == View("sarsa")
    assert views["awr"] == View("returns", discount=0.99)

    class Wrong:
        view = "sarza"

    with pytest.raises(ValueError, match="unknown view 'sarza'; did you mean sarsa"):
        view_of(Wrong())


def test_returns_end_with_a_terminal_row_though_recording_goes_on() -> None:
    """OGBench's way: successes in the midst of an episode."""
    terminals = np.isin(np.arange(ROWS), [1, 4])
    data = dataset(terminals=terminals, terminals_end_episodes=False)
    table = prepare(data, view=View("returns", discount=1.0)).transitions
    kept = (table.observation[:, 0] / 10).astype(int)
    assert {1, 4} < set(kept)
    for row, value, end in zip(kept, table.return_to_go, table.trajectory_end, strict=True):
        following = [i for i in range(row, ROWS) if terminals[i] or TIMEOUTS[i]]
        last = following[0] if following else ROWS - 1
        assert value == REWARDS[row : last + 1].sum()
        assert end == (row == last or row + 1 not in kept)


def test_bounds_of_returns_look_beyond_where_the_recording_was_cut() -> None:
    """Five rows that pay 1 and are cut are worth 1 / (1 - discount) everywhere; a terminal row is the end."""
    nothing, paid = np.zeros((5, 1)), np.ones(5)
    cut = Dataset.from_arrays(nothing, nothing, paid, np.zeros(5), timeouts=np.arange(5) == 4)
    assert return_bounds(cut, paid, 0.9) == pytest.approx((1.0, 10.0))
    assert return_bounds(cut, -paid, 0.9) == pytest.approx((-10.0, -1.0))
    assert return_bounds(cut, -paid, 0.9, endless=True) == pytest.approx((-10.0, -10.0))
    assert return_bounds(cut, paid, 1.0) == (1.0, 5.0)  # no sum to go on to
    ended = Dataset.from_arrays(nothing, nothing, paid, np.arange(5) == 4)
    assert return_bounds(ended, paid, 0.9) == pytest.approx((1.0, (1 - 0.9**5) / 0.1))
    # Rows 3 to 6 are cut, rows 8 and 9 too; the mean of all is 5.5, and counts as two rows of each.
    ends = {6: (4 + 5 + 6 + 7 + 2 * 5.5) / (4 + 2), 9: (9 + 10 + 2 * 5.5) / (2 + 2)}
    wanted = {6: 7 + 0.5 * 2 * ends[6], 9: 10 + 0.5 * 2 * ends[9]}
    wanted |= {8: 9 + 0.5 * wanted[9], 5: 6 + 0.5 * wanted[6]}
    plain = step_returns(dataset(), REWARDS, 0.5)
    assert return_bounds(dataset(), REWARDS, 0.5) == pytest.approx((plain.min(), max(plain.max(), *wanted.values())))
    assert max(wanted.values()) > plain.max()


def test_failures_that_were_cut_go_on_forever() -> None:
    """Rewards all equal and no terminal row: r / (1 - discount). Whatever else happened counts what was paid."""
    rewards = np.asarray([-1, -1, -1, -1, -1, 0, -1, -1, -2, -2], np.float32)
    terminals, timeouts = np.zeros(10, bool), np.isin(np.arange(10), [2, 5, 9])
    terminals[7] = True
    arrays = np.zeros((10, 1)), np.zeros((10, 1)), rewards, terminals
    data = Dataset.from_arrays(*arrays, timeouts=timeouts)

    class Calibrated:
        view, discount, endless_failures = "returns", 0.5, True

    view = view_of(Calibrated())
    assert view == View("returns", discount=0.5, endless=True)
    expected = np.asarray([-2.0, -2.0, -2.0, -1.5, -1.0, 0.0, -1.5, -1.0, -4.0, -4.0])
    np.testing.assert_allclose(step_returns(data, rewards, 0.5, endless=True), expected)
    np.testing.assert_allclose(step_returns(data, rewards, 0.5)[[0, 1, 2, 8]], [-1.75, -1.5, -1.0, -3.0])
    for framing, kept in ((Framing(), [0, 1, 3, 4, 6, 7, 8]), (Framing(history=2), [0, 1, 3, 4, 6, 7, 8])):
        table = prepare(data, view=view_of(Calibrated(), framing)).transitions
        np.testing.assert_allclose(np.sort(np.asarray(table.return_to_go)), np.sort(expected[kept]))


def test_trajectory_ends_are_the_last_rows_that_are_left() -> None:
    """A time-out loses its row, so the row before it ends the trajectory."""
    terminals, timeouts = np.zeros(7, bool), np.zeros(7, bool)
    terminals[1], timeouts[4] = True, True
    made = {
        "name": "test",
        "observations": np.arange(14.0).reshape(7, 2),
        "actions": np.zeros((7, 3)),
        "rewards": np.arange(7.0),
        "terminals": terminals,
        "timeouts": timeouts,
        "next_observations": None,
        "source": Source("somewhere.hdf5", "ab"),
    }
    table = prepare(Dataset(**made), view=View("returns", discount=1.0)).transitions
    np.testing.assert_array_equal(table.reward, [0, 1, 2, 3, 5])
    np.testing.assert_array_equal(table.trajectory_end, [0, 1, 0, 1, 1])
