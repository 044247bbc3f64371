"""The container: refusals, episodes, Q-learning view against a slow loop."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tether.data import Dataset, Source, dataset
from tether.data.source import FileDigest
from tether.errors import InputError


def columns(rows: int = 6, **changed: Any) -> dict[str, Any]:
    """Arguments of a small valid data set, some of them changed."""
    rng = np.random.default_rng(rows)
    made: dict[str, Any] = {
        "name": "test",
        "observations": rng.normal(size=(rows, 3)).astype(np.float32),
        "actions": rng.uniform(-1, 1, size=(rows, 2)).astype(np.float32),
        "rewards": rng.normal(size=rows).astype(np.float32),
        "terminals": np.zeros(rows, bool),
        "timeouts": np.zeros(rows, bool),
        "next_observations": None,
        "source": Source("somewhere.hdf5", "0" * 64),
    }
    return made | changed


def flags(rows: int, *at: int) -> np.ndarray:
    return np.isin(np.arange(rows), at)


def slow_view(data: Dataset, keep_terminal_timeouts: bool) -> list[tuple[int, int, float]]:
    """D4RL's `qlearning_dataset`, row by row: (row, row of the next observation, done)."""
    emitted = []
    for i in range(len(data) - 1):
        kept_anyway = keep_terminal_timeouts and data.terminals[i]
        if data.timeouts[i] and not kept_anyway:
            continue
        emitted.append((i, i + 1, float(data.terminals[i])))
    return emitted


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("overlap", [False, True])
def test_transitions_equal_the_slow_loop(seed: int, overlap: bool) -> None:
    rng = np.random.default_rng(seed)
    rows = int(rng.integers(3, 40))
    terminals, timeouts = rng.random(rows) < rng.random() / 2, rng.random(rows) < rng.random() / 2
    terminals[0] = timeouts[0] = False  # so that one transition at least is left
    if not overlap:
        timeouts &= ~terminals
    data = Dataset(**columns(rows, terminals=terminals, timeouts=timeouts))
    table = data.transitions()
    # Without overlap the view must be D4RL's own; with it, terminal time-outs are ours to keep.
    expected = slow_view(data, keep_terminal_timeouts=overlap)
    row = np.array([e[0] for e in expected])
    following = np.array([e[1] for e in expected])
    done = np.array([e[2] for e in expected], np.float32)
    np.testing.assert_array_equal(table.observation, data.observations[row])
    np.testing.assert_array_equal(table.action, data.actions[row])
    np.testing.assert_array_equal(table.reward, data.rewards[row])
    np.testing.assert_array_equal(table.terminal, done)
    mask = (1 - done)[:, None]
    np.testing.assert_array_equal(table.next_observation * mask, data.observations[following] * mask)
    # Where D4RL shows another episode's first row, we show the row's own observation.
    ended = done == 1
    np.testing.assert_array_equal(table.next_observation[ended], data.observations[row[ended]])
    assert all(column.dtype == np.float32 and isinstance(column, np.ndarray) for column in table[:5])
    assert table.next_action is None
    assert table.return_to_go is None


def test_terminal_timeout_is_kept_as_terminal() -> None:
    data = Dataset(**columns(6, terminals=flags(6, 2), timeouts=flags(6, 2, 4)))
    table = data.transitions()
    np.testing.assert_array_equal(table.reward, data.rewards[[0, 1, 2, 3]])
    np.testing.assert_array_equal(table.terminal, [0, 0, 1, 0])


def test_halfcheetah_keeps_all_rows_but_the_timeouts() -> None:
    """Self-test 3: no terminals; N - #timeouts rows, one less where the last row has no flag."""
    flagged = Dataset(**columns(12, timeouts=flags(12, 3, 7, 11)))
    assert len(flagged.transitions().reward) == 12 - 3
    unflagged = Dataset(**columns(12, timeouts=flags(12, 3, 7)))
    assert len(unflagged.transitions().reward) == 12 - 2 - 1


def test_stored_next_observations_serve_terminal_rows() -> None:
    stored = np.full((6, 3), 7.0, np.float32)
    data = Dataset(**columns(6, terminals=flags(6, 1), timeouts=flags(6, 3), next_observations=stored))
    table = data.transitions()
    np.testing.assert_array_equal(table.next_observation[1], stored[1])
    np.testing.assert_array_equal(table.next_observation[[0, 2]], data.observations[[1, 3]])
    assert len(table.reward) == 4


def test_keep_timeouts_keeps_every_row_with_what_truly_followed() -> None:
    stored = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    given = columns(6, terminals=flags(6, 1), timeouts=flags(6, 1, 3, 5), next_observations=stored)
    asked = Dataset(**given).transitions(keep_timeouts=True)
    exact = Dataset(**given, exact_next_observations=True)
    for table in (asked, exact.transitions()):
        np.testing.assert_array_equal(table.next_observation, stored)
        np.testing.assert_array_equal(table.terminal, [0, 1, 0, 0, 0, 0])
    assert len(exact.transitions(keep_timeouts=False).reward) == 4


def test_keep_timeouts_needs_stored_next_observations() -> None:
    with pytest.raises(InputError, match="keep_timeouts needs next_observations"):
        Dataset(**columns()).transitions(keep_timeouts=True)
    with pytest.raises(InputError, match="exact_next_observations"):
        Dataset(**columns(), exact_next_observations=True)


@pytest.mark.parametrize("changed", [{"rows": 1}, {"rows": 4, "timeouts": np.ones(4, bool)}])
def test_no_transition_left_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="no transition is left"):
        Dataset(**columns(**changed)).transitions()


def test_episodes_are_cut_after_flags_and_the_rest_is_partial() -> None:
    data = Dataset(**columns(9, terminals=flags(9, 1, 5), timeouts=flags(9, 4, 5), rewards=np.arange(9.0)))
    starts, ends, last_is_partial = data.episode_bounds()
    np.testing.assert_array_equal(starts, [0, 2, 5, 6])
    np.testing.assert_array_equal(ends, [2, 5, 6, 9])
    assert last_is_partial
    np.testing.assert_array_equal(data.episode_returns(), [0 + 1, 2 + 3 + 4, 5])  # not 6 + 7 + 8
    np.testing.assert_array_equal(data.episode_lengths(), [2, 3, 1])


def test_last_row_flagged_leaves_nothing_partial() -> None:
    data = Dataset(**columns(4, timeouts=flags(4, 1, 3)))
    assert not data.episode_bounds().last_is_partial
    np.testing.assert_array_equal(data.episode_lengths(), [2, 2])


@pytest.mark.parametrize("end", [(), (5,)])
def test_one_episode_is_enough_complete_or_not(end: tuple[int, ...]) -> None:
    data = Dataset(**columns(6, timeouts=flags(6, *end), rewards=np.ones(6)))
    np.testing.assert_array_equal(data.episode_returns(), [6.0])
    np.testing.assert_array_equal(data.episode_lengths(), [6])
    assert len(data.transitions().reward) == 5
    assert data.episode_bounds().last_is_partial == (end == ())


def test_returns_add_up_in_double_precision() -> None:
    rewards = np.full(100_001, 0.1, np.float32)
    rewards[0] = 1e6
    data = Dataset(**columns(len(rewards), rewards=rewards))
    np.testing.assert_allclose(data.episode_returns(), [1e6 + 1e5 * np.float64(np.float32(0.1))], rtol=1e-12)


def test_columns_are_converted_and_read_only() -> None:
    given = columns(4)
    writeable = given["observations"]
    data = Dataset(
        **given
        | {
            "actions": given["actions"].astype(np.float64),
            "rewards": np.array([[0], [1], [2], [3]]),
            "terminals": np.array([[0.0], [0.0], [1.0], [0.0]]),
            "timeouts": np.array([0, 0, 0, 1], np.uint8),
        }
    )
    assert data.actions.dtype == data.rewards.dtype == np.float32
    assert data.rewards.shape == data.terminals.shape == (4,)
    assert data.terminals.dtype == data.timeouts.dtype == np.bool_
    with pytest.raises(ValueError, match="read-only"):
        data.rewards[0] = 1.0
    writeable[0, 0] = 1.0  # the caller's own array is not locked


def test_actions_may_stand_on_the_border_and_round_over_it() -> None:
    actions = np.array([[1.0, -1.0], [1.0 + 9e-7, 0.0]])
    Dataset(**columns(2, actions=actions))


def broken(column: str, row: int, value: float) -> np.ndarray:
    array = columns(6)[column].astype(np.float64)
    array[row] = value
    return array


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"observations": np.zeros((0, 3))}, "observations have no rows"),
        ({"observations": np.array(1.0)}, "observations have no rows"),
        ({"observations": np.zeros(6)}, r"observations has shape \(6,\); two axes"),
        ({"observations": np.zeros((6, 0))}, r"observations has shape \(6, 0\)"),
        ({"observations": np.zeros((6, 2, 2))}, r"observations has shape \(6, 2, 2\)"),
        ({"actions": np.zeros(6)}, r"actions has shape \(6,\); two axes"),
        ({"actions": np.zeros((5, 2))}, "actions has 5 rows but observations have 6"),
        ({"rewards": np.zeros(7)}, "rewards has 7 rows but observations have 6"),
        ({"rewards": np.zeros((6, 2))}, r"rewards has shape \(6, 2\)"),
        ({"rewards": np.array(["a"] * 6)}, "rewards has type <U1"),
        ({"terminals": np.zeros((1, 6), bool)}, r"terminals has shape \(1, 6\)"),
        ({"next_observations": np.zeros((6, 4))}, r"next_observations has shape \(6, 4\)"),
        ({"observations": broken("observations", 4, np.nan)}, "observations holds nan at row 4, entry 0"),
        ({"rewards": broken("rewards", 2, np.inf)}, "rewards holds inf at row 2"),
        ({"rewards": broken("rewards", 2, 1e300)}, r"rewards holds 1e\+300 at row 2"),
        ({"terminals": broken("terminals", 3, 2)}, "terminals holds 2.0 at row 3; a flag is"),
        ({"timeouts": broken("timeouts", 5, np.nan)}, "timeouts holds nan at row 5; a flag is"),
        ({"timeouts": broken("timeouts", 5, 0.5)}, "timeouts holds 0.5 at row 5"),
        ({"actions": broken("actions", 3, -2.5)}, r"actions reach from -2.5 to .* first outside .* row 3"),
        ({"actions": broken("actions", 0, 1 + 3e-6)}, "first outside .* row 0"),
    ],
)
def test_bad_columns_are_refused_with_their_place(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        Dataset(**columns(6, **changed))
    assert "somewhere.hdf5" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_repr_shows_shapes_episodes_and_returns() -> None:
    data = Dataset(**columns(6, terminals=flags(6, 1), timeouts=flags(6, 3), rewards=np.arange(6.0)))
    text = repr(data)
    for part in (
        "'test'",
        "(6, 3)",
        "(6, 2)",
        "3 episodes, the last one partial",
        "mean 3.0 (min 1.0, max 5.0)",
    ):
        assert part in text


def test_replace_makes_a_changed_copy() -> None:
    data = Dataset(**columns(6))
    assert dataclasses.replace(data, name="other").name == "other"


# --- the file's hash ----------------------------------------------------------------------------------------


def test_the_hash_is_of_the_file_that_was_read(tmp_path: Path) -> None:
    path = tmp_path / "data.bin"
    path.write_bytes(b"as it was read")
    source = Source("data", FileDigest(path))
    assert source.sha256 == hashlib.sha256(b"as it was read").hexdigest()
    again = Source("data", FileDigest(path))
    path.write_bytes(b"another content")
    assert source.sha256 == hashlib.sha256(b"as it was read").hexdigest()  # it was taken
    with pytest.raises(InputError, match="was changed after it was read"):
        _ = again.sha256


def test_rows_are_taken_in_parts_and_lie_where_devices_want_them(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = [np.random.default_rng(0).normal(size=shape).astype(np.float32) for shape in ((100, 3), (100,))]
    rows = np.array([0, 5, 5, 99, 7, 31, 2])
    for at_once in (1, 3, 100):
        monkeypatch.setattr(dataset, "ROWS_AT_ONCE", at_once)
        for column, taken in zip(columns, dataset._taken(columns, rows), strict=True):
            np.testing.assert_array_equal(taken, column[rows])
            assert taken.ctypes.data % 64 == 0
