"""Framed decisions: action chunks, n-step returns, histories."""

import dataclasses
import json
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tether
from tether import Framing
from tether.algorithms import ALGORITHMS
from tether.algorithms.interface import PolicyWithMemory
from tether.data import ONE_STEP, Dataset, prepare, view_of
from tether.data.framing import framed
from tether.data.views import step_returns
from tether.policies.framed import FramedPolicy, framed_policy
from tether.training.derive import derived_shapes
from tether.types import Spec

DISCOUNT = 0.9


def _data(seed: int = 0, exact: bool = False, go_on: bool = False) -> Dataset:
    """Episodes of 8, 5, 2 and 9 rows; the first and the third end, the others are cut. Observations tell their row."""
    random = np.random.default_rng(seed)
    ends, rows = np.array([7, 12, 14, 23]), 24
    terminals, timeouts = np.zeros(rows, bool), np.zeros(rows, bool)
    terminals[[7, 14]], timeouts[[12, 23]] = True, True
    observations = np.stack([np.arange(rows), random.normal(size=rows)], axis=1)
    following = np.concatenate([observations[1:], observations[:1]])
    following[ends] = observations[ends] + [0.5, 0.0]  # what came after, which no row holds
    data = Dataset.from_arrays(
        observations,
        random.uniform(-1, 1, (rows, 2)),
        random.normal(size=rows),
        terminals,
        timeouts=timeouts,
        next_observations=following if exact else None,
    )
    if go_on:  # as OGBench's: the task is solved in the midst of an episode, and the recording goes on
        solved = np.zeros(rows, bool)
        solved[[3, 4, 20]] = True
        cut = np.zeros(rows, bool)
        cut[ends] = True
        return dataclasses.replace(data, terminals=solved, timeouts=cut, terminals_end_episodes=False)
    return data


def _slowly(data: Dataset, framing: Framing) -> list[dict[str, Any]]:
    """Every decision, by the words of the documentation."""
    n, found = framing.steps, []
    for start, end in zip(*data.episode_bounds()[:2], strict=True):
        for row in range(start, end):
            lived = [row]
            while len(lived) < n and not data.terminals[lived[-1]] and lived[-1] + 1 < end:
                lived.append(lived[-1] + 1)
            terminal = bool(data.terminals[lived[-1]])
            if framing.chunk > 1 and row + n > end:
                continue  # there are no actions to imitate beyond the end
            if not terminal and len(lived) < n:
                continue
            last = lived[-1]
            if terminal:
                after = data.observations[last] if data.next_observations is None else data.next_observations[last]
            elif data.exact_next_observations:
                assert data.next_observations is not None
                after = data.next_observations[last]
            elif last + 1 < end:
                after = data.observations[last + 1]
            else:
                continue

            def seen(now: int, latest: np.ndarray, start: int = start) -> np.ndarray:
                rows = [max(start, now - back) for back in range(framing.history - 1, 0, -1)]
                parts = [latest if earlier == now else data.observations[earlier] for earlier in rows]
                parts = [*parts, latest]
                if framing.history_actions:
                    before = range(now - framing.history + 1, now)
                    parts += [data.actions[t] if t >= start else np.zeros(2, np.float32) for t in before]
                return np.concatenate(parts)

            found.append(
                {
                    "row": row,
                    "observation": seen(row, data.observations[row]),
                    "action": np.concatenate([data.actions[row + k] for k in range(framing.chunk)]),
                    "reward": sum(DISCOUNT**k * float(data.rewards[t]) for k, t in enumerate(lived)),
                    "next_observation": seen(last + 1, after),
                    "terminal": terminal,
                }
            )
    return found


FRAMINGS = [
    Framing(chunk=3),
    Framing(n_step=3),
    Framing(history=3),
    Framing(history=3, history_actions=True),
    Framing(chunk=2, history=2, history_actions=True),
    Framing(chunk=9),
]


@pytest.mark.parametrize("framing", FRAMINGS, ids=str)
@pytest.mark.parametrize("kind", ["plain", "exact", "goes on"])
def test_decisions_are_those_of_the_slow_loop(framing: Framing, kind: str) -> None:
    data = _data(exact=kind == "exact", go_on=kind == "goes on")
    wanted = {decision["row"]: decision for decision in _slowly(data, framing)}
    if not wanted:
        with pytest.raises(tether.InputError, match="no decision"):
            framed(data, framing, DISCOUNT)
        return
    found, rows = framed(data, framing, DISCOUNT)
    assert sorted(rows.tolist()) == sorted(wanted)
    assert found.next_observations is not None
    for place, row in enumerate(rows.tolist()):
        decision = wanted[row]
        np.testing.assert_array_equal(found.observations[place], decision["observation"])
        np.testing.assert_array_equal(found.actions[place], decision["action"])
        np.testing.assert_array_equal(found.next_observations[place], decision["next_observation"])
        np.testing.assert_allclose(found.rewards[place], decision["reward"], rtol=1e-6)
        assert found.terminals[place] == decision["terminal"]


@pytest.mark.parametrize("framing", [Framing(chunk=2), Framing(n_step=2), Framing(history=2)], ids=str)
def test_the_next_row_is_the_next_decision(framing: Framing) -> None:
    data = _data()
    found, rows = framed(data, framing, DISCOUNT)
    starts, ends, partial = found.episode_bounds()
    assert not partial
    of_episode = np.searchsorted(data.episode_bounds().ends, rows, side="right")
    for start, end in zip(starts, ends, strict=True):
        np.testing.assert_array_equal(np.diff(rows[start:end]), framing.steps)
        assert len(set(of_episode[start:end])) == 1


def test_a_view_has_the_next_chunk_and_the_returns_of_steps() -> None:
    framing, data = Framing(chunk=2), _data()
    found, rows = framed(data, framing, DISCOUNT)
    sarsa = view_of(tether.ReBRAC(discount=DISCOUNT), framing)
    table = prepare(data, view=sarsa).transitions
    by_row = dict(zip(rows.tolist(), found.actions, strict=True))
    kept = [row for row in rows.tolist() if row + 2 in by_row or found.terminals[rows.tolist().index(row)]]
    assert table.next_action is not None
    assert len(table.next_action) == len(kept)
    for row, following, terminal in zip(kept, table.next_action, table.terminal, strict=True):
        np.testing.assert_array_equal(following, np.zeros(4) if terminal else by_row[row + 2])
    returns = prepare(data, view=view_of(tether.AWR(discount=DISCOUNT), framing)).transitions.return_to_go
    assert returns is not None
    np.testing.assert_allclose(returns, step_returns(data, data.rewards, DISCOUNT)[rows], rtol=1e-6)


def test_chunks_of_short_episodes_have_returns() -> None:
    """Episodes of 7 rows hold no two chunks of 4, one after the other; their rows follow each other all the same."""
    rows = 70
    cut = np.arange(rows) % 7 == 6
    random = np.random.default_rng(0)
    data = Dataset.from_arrays(
        random.normal(size=(rows, 2)),
        random.uniform(-1, 1, (rows, 1)),
        random.normal(size=rows),
        np.zeros(rows, bool),
        timeouts=cut,
    )
    framing = Framing(chunk=4)
    _, begins = framed(data, framing, DISCOUNT)
    returns = prepare(data, view=view_of(tether.AWR(discount=DISCOUNT), framing)).transitions.return_to_go
    assert returns is not None
    np.testing.assert_allclose(returns, step_returns(data, data.rewards, DISCOUNT)[begins], rtol=1e-6)
    with pytest.raises(tether.InputError, match=r"no decision \(.*chunk.*is followed by another.* of 8 steps"):
        prepare(data, view=view_of(tether.ReBRAC(discount=DISCOUNT), framing))


def test_rewards_and_observations_are_transformed_as_those_of_steps() -> None:
    data, view = _data(), view_of(tether.IQL(discount=DISCOUNT), Framing(chunk=2, history=2))
    plain = prepare(data, observation_transform="standardise")
    prepared = prepare(data, observation_transform="standardise", view=view)
    np.testing.assert_array_equal(prepared.normaliser.mean, plain.normaliser.mean)
    latest = prepared.transitions.observation[:, 2:]
    rows = framed(data, view.framing, DISCOUNT).rows
    np.testing.assert_array_equal(latest, plain.normaliser.normalise(data.observations[rows]))
    assert prepared.spec == Spec(2, 2)
    assert prepared.decision == Spec(4, 4)


def _policy(framing: Framing) -> FramedPolicy:
    """Its decision tells what it saw: action k of the chunk is (sum of what it sees, k)."""

    def decide(seen: jax.Array, key: Any) -> jax.Array:
        steps = jnp.arange(framing.chunk, dtype=jnp.float32)
        return jnp.stack([jnp.full(framing.chunk, seen.sum()), steps], axis=1).reshape(-1)

    return FramedPolicy(decide, framing, Spec(1, 2))


def _play(policy: FramedPolicy, observations: list[float]) -> list[list[float]]:
    memory, acted = policy.initial_memory(), []
    for observation in observations:
        action, memory = policy(jnp.full(1, observation, jnp.float32), jax.random.key(0), memory, jnp.zeros(()))
        acted.append(action.tolist())
    return acted


def test_a_chunk_is_carried_out_before_the_next_decision() -> None:
    assert isinstance(_policy(Framing(chunk=3)), PolicyWithMemory)
    assert _play(_policy(Framing(chunk=3)), [1, 2, 3, 4, 5]) == [[1, 0], [1, 1], [1, 2], [4, 0], [4, 1]]
    assert _play(_policy(Framing(chunk=3, execute=2)), [1, 2, 3, 4, 5]) == [[1, 0], [1, 1], [3, 0], [3, 1], [5, 0]]
    assert _play(_policy(Framing(chunk=3, execute=1)), [1, 2, 3]) == [[1, 0], [2, 0], [3, 0]]


def test_a_history_begins_with_the_first_observation_repeated() -> None:
    assert _play(_policy(Framing(history=3)), [1, 10, 100, 1000]) == [[3, 0], [12, 0], [111, 0], [1110, 0]]
    # and the actions between: none before the start, then (3 + 0), ...
    assert _play(_policy(Framing(history=2, history_actions=True)), [1, 10, 100]) == [[2, 0], [13, 0], [123, 0]]


def test_training_sees_what_acting_sees() -> None:
    data, framing = _data(), Framing(history=3, history_actions=True)
    found, rows = framed(data, framing, DISCOUNT)
    seen: list[np.ndarray] = []

    def decide(observation: jax.Array, key: Any) -> jax.Array:
        seen.append(np.asarray(observation))
        return jnp.asarray(data.actions[len(seen) - 1])  # what the data's policy did

    policy = FramedPolicy(decide, framing, Spec(2, 2))
    memory = policy.initial_memory()
    for row in range(8):  # the first episode
        _, memory = policy(jnp.asarray(data.observations[row]), jax.random.key(0), memory, jnp.zeros(()))
    np.testing.assert_array_equal(np.stack(seen), found.observations[np.argsort(rows)][:8])


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"chunk": 0}, "chunk 0: a whole number"),
        ({"history": 1001}, "history 1001: a whole number"),
        ({"chunk": 3, "execute": 4}, "of a chunk of 3"),
        ({"chunk": 3, "n_step": 2}, "give one"),
        ({"history_actions": True}, "history of 2 or more"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(tether.InputError, match=words):
        Framing(**wrong)
    with pytest.raises(tether.InputError, match="trained on trajectories"):
        view_of(tether.DT(), Framing(chunk=2))
    assert view_of(tether.IQL(), ONE_STEP) == view_of(tether.IQL())


def test_a_run_with_chunks_is_saved_loaded_resumed_and_played_as_a_plain_loop(tmp_path: Any) -> None:
    random, rows = np.random.default_rng(1), 200
    cut = np.arange(rows) % 50 == 49
    data = Dataset.from_arrays(
        random.normal(size=(rows, 3)), random.uniform(-2, 2, (rows, 1)), random.normal(size=rows), np.zeros(rows),
        timeouts=cut, action_low=-2.0, action_high=2.0,
    )  # fmt: skip
    algorithm = tether.TD3BC(hidden_sizes=(8,), train_updates=4)
    how: dict[str, Any] = {"options": tether.Options(batch_size=8, eval_every_updates=2, eval_episodes=2)}
    how |= {"environment": "Pendulum-v1", "horizon": 7, "quiet": True, "framing": Framing(chunk=3, history=2)}
    tether.train(algorithm, data, out=tmp_path / "run", **how)
    policy = tether.load_policy(tmp_path / "run")
    assert policy.has_memory
    assert policy.spec == Spec(3, 1)
    assert policy.framing == how["framing"]
    assert tether.load_policy(tmp_path / "run", execute=1).framing.executed == 1
    before = json.loads((tmp_path / "run" / "result.json").read_text())
    tether.resume(tmp_path / "run", dataset=data, quiet=True)
    assert json.loads((tmp_path / "run" / "result.json").read_text())["lanes"] == before["lanes"]
    played, _ = tether.evaluate(tmp_path / "run", dataset=data, episodes=2, quiet=True)
    environment = gymnasium.make("Pendulum-v1", max_episode_steps=7)
    for episode in range(2):
        observation, _ = environment.reset(seed=100 + episode)
        memory, reward, total, over = policy.initial_memory(), 0.0, 0.0, False
        while not over:
            action, memory = policy.step(observation, memory, reward)
            observation, reward, terminated, truncated, _ = environment.step(action)
            total, over = total + float(reward), terminated or truncated
        assert total == played.returns[0, episode]
    with pytest.raises(tether.InputError, match="a run for each"):
        tether.train(algorithm, data, sweep={"discount": [0.9, 0.99]}, out=tmp_path / "swept", **how)


QUICK = ("dtql", "fql")
CASES = [pytest.param(name, marks=() if name in QUICK else pytest.mark.long) for name in ALGORITHMS if name != "dt"]


@pytest.mark.parametrize("name", CASES)
def test_every_algorithm_trains_on_decisions_and_acts_in_steps(name: str) -> None:
    """Shapes alone: an algorithm knows nothing of framing, so its numbers are those of another data set."""
    algorithm, framing = ALGORITHMS[name](), Framing(chunk=2, history=2, history_actions=True)
    prepared = prepare(_data(), view=view_of(algorithm, framing))
    assert prepared.decision == Spec(2 * 2 + 2, 2 * 2)
    state = jax.eval_shape(lambda key: algorithm.init(prepared.decision, key), jax.random.key(0))
    batch = jax.tree.map(jnp.asarray, prepared.transitions).take(jnp.arange(4))
    for index, phase in enumerate(algorithm.phases()):
        derived = derived_shapes(algorithm, state, prepared.transitions, index)
        rows = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((4, *leaf.shape[1:]), leaf.dtype), derived)
        given = batch if derived is None else batch._replace(derived=rows)
        after, _ = jax.eval_shape(phase.update, state, given, jax.random.key(0), jnp.zeros((), jnp.int32))
        assert jax.tree.map(lambda leaf: leaf.shape, after) == jax.tree.map(lambda leaf: leaf.shape, state)

    def act(state: Any, observation: jax.Array, key: Any) -> Any:
        policy = framed_policy(algorithm.policy(state), framing, prepared.spec)
        memory = policy.initial_memory()
        action, following = policy(observation, key, memory, jnp.zeros(()))
        assert jax.tree.structure(following) == jax.tree.structure(memory)
        return action

    assert jax.eval_shape(act, state, jnp.zeros(2), jax.random.key(0)).shape == (2,)
