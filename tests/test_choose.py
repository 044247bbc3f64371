"""`tether choose` where it is known which policy is the best, and where nobody can know."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import equinox as eqx
import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from make_data import finished_run
from make_data import tether as run_command

import tether
from tether.data import Dataset, Normaliser
from tether.data.framing import Framing
from tether.errors import InputError
from tether.ope.decisions import decisions_of, evaluation_data
from tether.ope.estimators import Estimate
from tether.ope.evidence import evidence_of
from tether.ope.fitted_q import FittedQ, Values
from tether.ope.own_critic import find_critic
from tether.ope.propensities import by_propensities
from tether.ope.ranking import rank
from tether.ope.support import Support
from tether.policies.acting import Sampled
from tether.policies.deployed import DeployedPolicy, deploy
from tether.policies.framed import framed_policy
from tether.runs.candidates import Candidate, read_candidates
from tether.studies.choose import Judged, _gates, _importance, answer_line, choose_among, verdict
from tether.types import Spec

DISCOUNT, LOW, HIGH = 0.8, -3.0, 3.0  # of actions, in units of the plant
SIZES: dict[str, Any] = {"hidden_sizes": (48, 48), "members": 3, "updates": 1024, "batch_size": 128}
HOW = FittedQ(discount=DISCOUNT, learning_rate=2e-3, target_rate=0.02, **SIZES)


class Proportional(eqx.Module):
    """u = -gain x, as networks act: in [-1, 1]."""

    gain: Any

    def __call__(self, observation: Any, key: Any) -> Any:
        return jnp.clip(-self.gain * observation / HIGH, -1.0, 1.0)


def plant(episodes: int = 60, steps: int = 25) -> tether.Dataset:
    """x' = 0.9 x + 0.5 u, paid -x^2 - u^2 / 10, operated by u = -0.4 x and noise."""
    random, logs = np.random.default_rng(0), []
    for _ in range(episodes):
        x, rows = random.normal(), []
        for _ in range(steps):
            u = float(np.clip(-0.4 * x + 0.5 * random.normal(), LOW, HIGH))
            rows.append((x, u, -(x**2) - 0.1 * u**2))
            x = 0.9 * x + 0.5 * u
        observation, action, reward = (np.array(column) for column in zip(*rows, strict=True))
        logs.append({"observations": np.append(observation, x)[:, None], "actions": action[:, None], "rewards": reward})
    logs = [log | {"terminals": False} for log in logs]
    return tether.Dataset.from_episodes(logs, name="plant", action_low=LOW, action_high=HIGH)


DATA = plant()


def policy(gain: float) -> DeployedPolicy:
    none = Normaliser(np.zeros(1, np.float32), np.ones(1, np.float32))
    return deploy(Proportional(jnp.float32(gain)), Spec(1, 1), none, DATA.schema)


def candidate(gain: float, name: str = "", **more: Any) -> Candidate:
    return Candidate(name or f"gain {gain:g}", Path("nowhere"), "p", policy=policy(gain), **more)


def true_value(gain: float) -> float:
    """Of the first states, without the limits of the actions, which gains below 2 do not meet."""
    first = np.array([DATA.observations[start, 0] for start in DATA.episode_bounds().starts])
    return float(-(1 + 0.1 * gain**2) / (1 - DISCOUNT * (0.9 - 0.5 * gain) ** 2) * np.mean(first**2))


# --- what a log says ----------------------------------------------------------------------------------------


def test_evidence_is_the_log() -> None:
    evidence = evidence_of(DATA, DISCOUNT, 10**6)
    rows, starts = evidence.rows, DATA.episode_bounds().starts
    assert len(evidence.episode) == len(rows.reward) == 60 * 24  # the last row of each has no next action
    assert np.bincount(evidence.episode).tolist() == [24] * 60
    np.testing.assert_array_equal(evidence.first_observation, DATA.observations[starts])
    np.testing.assert_array_equal(rows.next_action[:23], rows.action[1:24])
    powers, rewards = DISCOUNT ** np.arange(25), DATA.rewards[75:100].astype(float)
    after = rewards[-7:].mean() / (1 - DISCOUNT)
    np.testing.assert_allclose(evidence.returns[3], powers @ rewards + DISCOUNT**25 * after, rtol=1e-5)
    np.testing.assert_allclose(evidence.to_go[3 * 24 + 2], powers[:-2] @ rewards[2:] + DISCOUNT**23 * after, rtol=1e-5)
    assert evidence.reachable == pytest.approx((DATA.rewards.min() / (1 - DISCOUNT), 0.0))
    fewer = evidence_of(DATA, DISCOUNT, 100)
    assert len(fewer.rows.reward) == len(fewer.episode) == 100


def test_an_episode_that_ended_is_worth_what_it_paid() -> None:
    ended = dataclasses.replace(DATA, terminals=DATA.timeouts, timeouts=np.zeros(len(DATA), bool))
    evidence = evidence_of(ended, DISCOUNT, 10**6)
    assert evidence.returns[3] == pytest.approx(DISCOUNT ** np.arange(25) @ DATA.rewards[75:100], rel=1e-5)


def test_decisions_are_in_the_units_of_the_data() -> None:
    evidence = evidence_of(DATA, DISCOUNT, 500)
    found = decisions_of(policy(0.6), evidence, DATA, draws=3)
    np.testing.assert_allclose(found.following, -0.6 * evidence.rows.next_observation / HIGH, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        found.there, -0.6 * evidence.rows.observation[evidence.places] / HIGH, rtol=1e-5, atol=1e-6
    )
    assert found.first.shape == (60, 3, 1)
    two = Normaliser(np.zeros(2, np.float32), np.ones(2, np.float32))
    with pytest.raises(InputError, match="sizes"):
        decisions_of(deploy(Proportional(jnp.float32(1)), Spec(2, 1), two, DATA.schema), evidence, DATA)


def test_what_lies_outside_of_the_datas_box_stays_outside() -> None:
    """A log of another range, and one action that never changes."""
    box: dict[str, Any] = {"action_low": [-0.5, 5.0], "action_high": [0.5, 5.0]}
    narrow = np.stack([np.clip(3 * DATA.actions[:, 0], -0.5, 0.5), np.full(len(DATA), 5.0)], axis=1)
    log = tether.Dataset.from_arrays(DATA.observations, narrow, DATA.rewards, timeouts=DATA.timeouts, **box)

    class Two(Proportional):
        def __call__(self, observation: Any, key: Any) -> Any:
            return jnp.append(super().__call__(observation, key), 0.0)

    none, schema = Normaliser(np.zeros(1, np.float32), np.ones(1, np.float32)), log.schema
    assert schema is not None
    wide = schema._replace(box=schema.box._replace(low=(-3.0, 5.0), high=(3.0, 5.0)))
    evidence = evidence_of(log, DISCOUNT, 100)
    found = decisions_of(deploy(Two(jnp.float32(0.6)), Spec(1, 2), none, wide), evidence, log).following
    np.testing.assert_allclose(found[:, 0], -0.6 * evidence.rows.next_observation[:, 0] / 0.5, rtol=1e-5, atol=1e-6)
    assert np.abs(found[:, 0]).max() > 1
    assert not found[:, 1].any()


def test_a_log_that_names_no_range_has_the_policys() -> None:
    plain = dataclasses.replace(DATA, schema=None)
    evidence = evidence_of(plain, DISCOUNT, 100)
    one, other = (decisions_of(policy(0.6), evidence, data).following for data in (plain, DATA))
    np.testing.assert_allclose(one, other, atol=1e-6)


# --- with a memory ------------------------------------------------------------------------------------------


class Remembering(eqx.Module):
    """u = 0.5 u_before - gain x + what was paid before; the first of an episode remembers nothing."""

    gain: Any

    def initial_memory(self) -> Any:
        return jnp.zeros(1), jnp.zeros((), jnp.int32)

    def __call__(self, observation: Any, key: Any, memory: Any, reward: Any) -> Any:
        action = jnp.clip(0.5 * memory[0] - self.gain * observation + 0.01 * reward, -1.0, 1.0)
        return action, (action, memory[1] + 1)


class Corrected(Remembering):
    """And can be told better."""

    def corrected(self, memory: Any, action: Any) -> Any:
        return action, memory[1]


def without(inner: Any) -> DeployedPolicy:
    return deploy(inner, Spec(1, 1), Normaliser(np.zeros(1, np.float32), np.ones(1, np.float32)), DATA.schema)


def test_a_memory_is_of_what_was_done() -> None:
    """Of episodes of many lengths, as many as take several calls."""
    cuts = np.isin(np.arange(len(DATA)), np.random.default_rng(1).permutation(len(DATA))[:90])
    data = DATA.replace(timeouts=DATA.timeouts | cuts)
    evidence = evidence_of(data, DISCOUNT, 700)
    found = decisions_of(without(Corrected(jnp.float32(0.1))), evidence, data)
    starts = data.episode_bounds().starts
    at = starts[evidence.episode] + evidence.step + 1
    x, u, paid = data.observations[:, 0], data.actions[:, 0], data.rewards
    expected = np.clip(0.5 * u[at - 1] - 0.1 * x[at] + 0.01 * paid[at - 1], -1, 1)
    np.testing.assert_allclose(found.following[:, 0], expected, atol=1e-5)
    at = (starts[evidence.episode] + evidence.step)[evidence.places]
    before = np.where(np.isin(at, starts), 0, 0.5 * u[at - 1] + 0.01 * paid[at - 1])
    np.testing.assert_allclose(found.there[:, 0], np.clip(before - 0.1 * x[at], -1, 1), atol=1e-5)
    np.testing.assert_allclose(found.first[:, 2], np.clip(-0.1 * evidence.first_observation, -1, 1), atol=1e-5)
    with pytest.raises(InputError, match="cannot be told what was done"):
        decisions_of(without(Remembering(jnp.float32(0.1))), evidence, data)


def test_histories_are_the_logs() -> None:
    framing, evidence = Framing(history=2, history_actions=True), evidence_of(DATA, DISCOUNT, 10**6)

    class Sum(eqx.Module):
        def __call__(self, seen: Any, key: Any) -> Any:
            return seen[:1] * 0.1 + 0.01 * seen[1:2] + 0.5 * seen[2:]

    found = decisions_of(without(framed_policy(Sum(), framing, Spec(1, 1))), evidence, DATA).following[:, 0]
    rows = evidence.rows
    expected = 0.1 * rows.observation + 0.01 * rows.next_observation + 0.5 * rows.action
    np.testing.assert_allclose(found, expected[:, 0], atol=1e-5)


@pytest.mark.parametrize("made", [Framing(history=3, history_actions=True, chunk=2), "dt"])
def test_a_memory_told_what_it_did_stays_the_same(made: Any) -> None:
    if made == "dt":
        algorithm = tether.DT(width=8, block_count=1, context_length=3, episode_length=9)
        inner: Any = algorithm.policy(algorithm.init(Spec(2, 1), jax.random.key(0)))
    else:
        inner = framed_policy(lambda seen, key: jnp.tanh(seen[:2]), made, Spec(2, 1))
    memory, act = inner.initial_memory(), jax.jit(inner.__call__)
    for step in range(5):
        action, memory = act(jnp.full(2, 0.1 * step), jax.random.key(step), memory, jnp.float32(step))
        told, other = inner.corrected(memory, action), inner.corrected(memory, action + 1)
        assert jax.tree.all(jax.tree.map(np.array_equal, told, memory))
        assert not jax.tree.all(jax.tree.map(np.array_equal, other, memory))


class Noisy(eqx.Module):
    """u = -gain x and noise of deviation 0.5, in units of the plant."""

    gain: Any
    max_action: float = eqx.field(static=True, default=1.0)

    def sample(self, observation: Any, key: Any, count: int) -> Any:
        return self.mode(observation)[None] + 0.5 / HIGH * jax.random.normal(key, (count, 1))

    def mode(self, observation: Any) -> Any:
        return -self.gain * observation / HIGH

    def sample_with_log_density(self, observation: Any, key: Any) -> Any:
        action = self.sample(observation, key, 1)[0]
        return action, self.log_density_of(observation, action)

    def log_density_of(self, observation: Any, action: Any) -> Any:
        return jnp.sum(jax.scipy.stats.norm.logpdf(action, self.mode(observation), 0.5 / HIGH))


def test_importance_sampling_where_the_log_has_propensities(tmp_path: Path) -> None:
    x, u = DATA.observations[:, 0], HIGH * DATA.actions[:, 0]
    densities = -0.5 * ((u + 0.4 * x) / 0.5) ** 2 - np.log(0.5 * np.sqrt(2 * np.pi))
    densities[:25] = np.nan  # nobody knows how likely these were: the episode is left out
    DATA.replace(log_densities=densities).to_hdf5(tmp_path / "plant.hdf5")
    log = tether.load_dataset(str(tmp_path / "plant.hdf5"))
    evidence = evidence_of(log, DISCOUNT, 10**6)
    own, better = (by_propensities(without(Sampled(Noisy(jnp.float32(gain)))), log, evidence) for gain in (0.4, 0.5))
    assert own is not None
    assert better is not None
    assert own.value == pytest.approx(evidence.returns[1:].mean(), rel=1e-4)
    assert own.effective_episodes == pytest.approx(59, rel=1e-3)
    # Of the noise's variance, each step pays (0.1 + 0.5^2 / (1 - 0.8 (0.9 - 0.5 gain)^2) 0.8) 0.25 more.
    closed = 1 / (1 - DISCOUNT * 0.65**2)
    noise = 0.25 * (0.1 + DISCOUNT * 0.25 * closed * (1 + 0.1 * 0.25)) / (1 - DISCOUNT)
    assert abs(better.value - (true_value(0.5) - noise)) < 3 * better.standard_error
    assert by_propensities(policy(0.5), log, evidence) is None
    assert by_propensities(without(Sampled(Noisy(jnp.float32(0.4)))), DATA, evidence) is None
    few = dataclasses.replace(HOW, updates=64, members=2)
    found = [candidate(0.4), Candidate("noisy", Path("nowhere"), "p", policy=without(Sampled(Noisy(jnp.float32(0.4)))))]
    choice = choose_among(found, log, few, quiet=True)
    rows = {row.name: row.importance for row in choice.rows}
    assert rows["gain 0.4"] is None
    assert rows["noisy"] is not None
    assert rows["noisy"]["low"] < rows["noisy"]["value"] < rows["noisy"]["high"]
    assert "59.0 episodes" in " ".join(str(choice).split())


def test_support_is_measured_by_the_logs_own_decisions() -> None:
    evidence = evidence_of(DATA, DISCOUNT, 10**6)
    support, own = Support(evidence), np.asarray(evidence.rows.action)[evidence.places]
    assert support.off(own) == pytest.approx(0.01, abs=0.002)
    assert support.off(-0.4 * evidence.rows.observation[evidence.places] / HIGH) < 0.02
    assert support.off(np.full_like(own, 1.0)) > 0.95


# --- from values to answers ---------------------------------------------------------------------------------


def values_of(first: Any) -> Values:
    return Values(np.asarray(first, float), np.zeros(len(first)), 0.0)


def test_errors_that_candidates_share_do_not_blur_their_order() -> None:
    shared = np.random.default_rng(0).normal(0, 10, (5, 1, 40))
    found = rank(values_of(shared + np.array([0.0, 1.0])[None, :, None]))
    assert found.above(1, 0) > 0.99
    assert found.low[1] < found.value[0] < found.high[1]  # though the intervals overlap
    np.testing.assert_allclose(found.best(np.array([True, True])), [0, 1], atol=0.01)
    np.testing.assert_array_equal(found.best(np.array([True, False])), [1, 0])


def test_intervals_are_students() -> None:
    random, inside = np.random.default_rng(0), 0
    for _ in range(200):  # members that spread as estimates do, so that their mean is one more of them
        found = rank(values_of(random.normal(size=(5, 1, 1))))
        inside += bool(found.low[0] <= random.normal() <= found.high[0])
    assert inside / 200 > 0.8
    assert float(np.ptp([rank(values_of(np.full((3, 2, 4), 7.0))).draws])) == 0.0


def test_what_the_logs_own_policy_is_missed_by_widens_all_intervals() -> None:
    values = values_of(np.random.default_rng(0).normal(size=(5, 2, 1)) + np.array([[[0.0], [9.0]]]))
    sure, missed = rank(values), rank(values, known=29.0)
    assert (missed.high - missed.low > 3 * (sure.high - sure.low)).all()
    assert 0.5 < missed.above(1, 0) < sure.above(1, 0)


def test_the_best_policy_that_passes_the_gates_is_recommended() -> None:
    gains = (0.0, 0.3, 0.9)
    diverged = Candidate("diverged", Path("nowhere"), "p", faults=("lane diverged at train update 7",))
    found = [diverged, candidate(-9.0, "unlike"), *map(candidate, gains)]
    choice = choose_among(found, DATA, HOW, quiet=True)
    assert choice.recommended == "gain 0.9"
    assert [row.name for row in choice.rows] == ["gain 0.9", "gain 0.3", "gain 0", "unlike", "diverged"]
    for row, gain in zip(choice.rows, reversed(gains), strict=False):
        assert row.value == pytest.approx(true_value(gain), rel=0.25)  # -1.97 to -1.92 of -2.44, as networks begin
        assert row.low is not None
        assert row.low < float(row.value or 0.0)
        assert not row.refused
    assert sum(row.best for row in choice.rows) == pytest.approx(1.0)
    assert choice.behaviour_fitted == pytest.approx(choice.behaviour, rel=0.2)
    assert answer_line(choice.recommended, choice.reason).startswith("recommended: gain 0.9 (expected to lose")
    assert json.loads(json.dumps(choice.to_json()))["recommended"] == "gain 0.9"
    refused = {row.name: " ".join(row.refused) for row in choice.rows if row.refused}
    assert "unlike any that were logged" in refused["unlike"]
    assert refused["diverged"] == "lane diverged at train update 7"
    none = choose_among([diverged], DATA, HOW, quiet=True)
    assert answer_line(none.recommended, none.reason) == "cannot rank these: no candidate passes the gates"


def test_what_is_wrong_with_one_concerns_no_other() -> None:
    """Networks share their layers: what is not finite would reach all."""
    few = dataclasses.replace(HOW, updates=256)
    schema = DATA.schema
    assert schema is not None
    renamed = dataclasses.replace(candidate(0.6, "renamed"), schema=schema._replace(observation={"y": (0, 1)}))
    log = dataclasses.replace(DATA, schema=schema._replace(observation={"x": (0, 1)}))
    asked = [candidate(0.9), candidate(0.9, "twin"), candidate(float("nan"), "broken"), renamed]
    choice = choose_among(asked, log, few, quiet=True)
    rows = {row.name: row for row in choice.rows}
    assert "decisions are not finite" in rows["broken"].refused[0]
    assert "observation number 0 is 'x'; the policy takes 'y'" in rows["renamed"].refused[0]
    assert rows["twin"].same_as == "gain 0.9"
    assert rows["twin"].value == rows["gain 0.9"].value
    assert (choice.recommended, rows["twin"].best) == ("gain 0.9", 1.0)
    assert choice.reason.startswith("the only one to choose; worth more than the log's own policy with a probability")


def test_the_order_of_the_candidates_changes_nothing() -> None:
    few, asked = dataclasses.replace(HOW, updates=64), [candidate(gain) for gain in (0.0, 0.6, 0.9)]
    one, other = (choose_among(order, DATA, few, quiet=True) for order in (asked, asked[::-1]))
    assert [(row.name, row.value, row.best) for row in one.rows] == [(r.name, r.value, r.best) for r in other.rows]
    assert (one.recommended, one.reason) == (other.recommended, other.reason)


def test_units_of_the_observations_change_nothing() -> None:
    """Micrometres and metres: columns were divided by their spread and 0.001."""
    few, small = dataclasses.replace(HOW, updates=64), np.float32(2.0**-20)
    scaled = dataclasses.replace(DATA, observations=DATA.observations * small)
    evidence = [evidence_of(data, few.discount, 10_000) for data in (DATA, scaled)]
    data = [evaluation_data(each, [])[0] for each in evidence]
    np.testing.assert_allclose(data[1].observation, data[0].observation, rtol=1e-4, atol=1e-4)
    constant = dataclasses.replace(DATA, observations=np.full_like(DATA.observations, 12.3))
    assert np.abs(evaluation_data(evidence_of(constant, few.discount, 10_000), [])[0].observation).max() < 1e-3


def test_a_value_at_the_bound_of_what_rewards_add_up_to_is_one_that_they_can() -> None:
    """Where costs are all that is earned, the best policies are worth 0, and half of all errors lie above."""
    low, high = evidence_of(DATA, HOW.discount, 10_000).reachable
    assert low < 0 == high

    def refused(value: float) -> bool:
        evidence = evidence_of(DATA, HOW.discount, 10_000)
        row = Judged("one", Path("one"), "p", None, None, None, value=value, off_support=0.0)
        return bool(_gates(row, evidence))

    assert not refused(-0.05 * low)
    assert refused(-0.2 * low)
    assert refused(1.2 * low)


def test_one_that_is_surely_worse_than_the_log_is_not_recommended() -> None:
    first = np.random.default_rng(0).normal(0, 0.1, (5, 2, 30)) + np.array([1.0, 2.0])[None, :, None]
    ranking = rank(values_of(first), known=2.0)
    recommended, reason = verdict(ranking, np.array([True, False]), ["one", "the log"], 2.0)
    assert recommended is None
    assert reason.startswith("one, the best of them, is worth more than the log's own policy with a probability of")


def test_weights_that_leave_a_handful_of_episodes_have_no_interval() -> None:
    estimate = Estimate(5.0, np.ones(50), 3.0, 1e-5)
    assert _importance(estimate) == {"value": 5.0, "effective_episodes": 3.0}
    many = _importance(estimate._replace(effective_episodes=30.0, standard_error=1.0))
    assert many is not None
    assert (many["low"], many["high"]) == pytest.approx((5 - 1.645, 5 + 1.645), abs=1e-3)


@pytest.mark.parametrize(("low", "high", "near"), [(0.0, 0.3, 0.04), (12.3, 12.3, 0.004)])
def test_a_log_of_few_levels_supports_what_lies_beside_them(low: float, high: float, near: float) -> None:
    """Distances of its own decisions are 0: whatever differed by round-off was called unlike any."""
    observations = np.random.default_rng(0).normal(size=(2000, 2)).astype(np.float32)
    actions, box = np.where(observations[:, :1] > 0, high, low), {"action_low": 0.0, "action_high": max(high, 0.3)}
    ends = np.arange(2000) % 100 == 99
    data = Dataset.from_arrays(observations, actions, observations[:, 0], timeouts=ends, continuous=True, **box)
    support = Support(evidence := evidence_of(data, 0.9, 10_000))
    own = np.asarray(evidence.rows.action)[evidence.places]
    inwards = -np.sign(own)
    assert [support.off(own + apart * inwards) for apart in (0.0, 1e-7, near, 0.3)] == [0.0, 0.0, 0.0, 1.0]


def test_what_cannot_be_told_apart_is_not_ranked() -> None:
    random, everybody = np.random.default_rng(0), np.ones(3, bool)
    names, apart = ["one", "two", "three"], np.array([1.0, 2.0, 3.0])
    noise = rank(values_of(random.normal(size=(5, 3, 1)) + np.ones((1, 1, 30))))
    recommended, reason = verdict(noise, everybody, names, float(noise.value[-1]) - 2)
    assert recommended is None
    assert "differ by too little for how well they are known; what the log itself earned is missed by 2" in reason
    first = random.normal(0, 0.1, (5, 4, 30)) + np.append(apart, 2.0)[None, :, None]
    among = np.append(everybody, False)
    assert verdict(rank(values_of(first), known=2.1), among, names, None)[0] == "three"
    assert verdict(rank(values_of(first), known=9.0), among, names, None)[0] is None  # they may all be so wrong
    assert verdict(rank(values_of(first)), np.array([True, True, False, False]), names, None)[0] == "two"


# --- runs, checkpoints, policy folders ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two lanes, with held-out losses and two checkpoints, and its data beside it."""
    folder = tmp_path_factory.mktemp("choose")
    DATA.to_hdf5(folder / "plant.hdf5")
    options = tether.Options(batch_size=32, checkpoint_every_updates=10, eval_every_updates=20, log_every_updates=20)
    how: dict[str, Any] = {"options": options, "holdout": 0.2, "environment": "none", "quiet": True}
    algorithm = tether.TD3BC(hidden_sizes=(8, 8), train_updates=20, discount=DISCOUNT)
    tether.train(algorithm, str(folder / "plant.hdf5"), seeds=2, out=folder / "run", **how)
    return folder


def test_lanes_checkpoints_and_policies_are_candidates(trained: Path) -> None:
    data = tether.load_dataset(str(trained / "plant.hdf5"))
    run = trained / "run"
    lanes = read_candidates(run, lambda folder: data)
    assert [(one.name, one.lane, one.update) for one in lanes] == [("run, seed 0", 0, 20), ("run, seed 1", 1, 20)]
    assert lanes[0].discount == DISCOUNT
    assert all(name.endswith(("loss", "nll")) for name in lanes[0].losses)
    assert lanes[0].losses["critic/q_loss"] > 0
    assert find_critic(lanes[0].state) is lanes[0].state.critic
    earlier = read_candidates(run / "checkpoints" / "train-000000010", lambda folder: data)
    assert [(one.name, one.update, one.losses) for one in earlier] == [(f"run@10, seed {n}", 10, {}) for n in (0, 1)]
    (kept,) = read_candidates(run / "policies" / "lane-1", lambda folder: data)
    assert (kept.name, kept.lane, kept.seed, kept.update, kept.state) == ("policies/lane-1", 1, 1, 20, None)
    evidence = evidence_of(data, DISCOUNT, 200)
    one, other, before = (decisions_of(c.policy, evidence, data).following for c in (lanes[1], kept, earlier[1]))
    np.testing.assert_allclose(one, other, atol=1e-6)
    assert (one != before).any()


def test_runs_on_levels_are_judged_on_levels(tmp_path: Path) -> None:
    """Whole numbers among the actions that are levels, as the runs on them say."""
    with h5py.File(file := tmp_path / "levels.hdf5", "w") as written:
        for name in ("observations", "rewards", "terminals", "timeouts"):
            written[name] = getattr(DATA, name)
        written["actions"] = np.round(3 * DATA.actions)
    algorithm = tether.BC(hidden_sizes=(8,), train_updates=5)
    how: dict[str, Any] = {"environment": "none", "quiet": True, "continuous": True}
    tether.train(algorithm, file, out=tmp_path / "run", **how)
    for given in (None, file):
        assert len(tether.choose([tmp_path / "run"], given, updates=8, members=2, rows=200, quiet=True).rows) == 1


def test_the_command(trained: Path) -> None:
    small = ["--updates", 64, "--members", 2, "--rows", 500, "--quiet"]
    code, out, err = run_command("choose", trained / "run", "--json", trained / "choice.json", *small)
    answer = json.loads((trained / "choice.json").read_text())
    assert (code, err) == (0 if answer["recommended"] else 1, "")
    assert out.splitlines()[-2].startswith("recommended: " if answer["recommended"] else "cannot rank these: ")
    assert {row["name"] for row in answer["rows"]} == {"run, seed 0", "run, seed 1"}
    assert all(row["own_critic"] is not None and "critic/q_loss" in row["losses"] for row in answer["rows"])
    code, again, _ = run_command("choose", trained / "run", "--json", "-", *small)
    assert json.loads(again) == answer


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["choose"], "name at least one run"),
        (["choose", "RUN/run", "RUN/run"], "named twice"),
        (["choose", "RUN"], "neither a run folder, nor a checkpoint"),
        (["choose", "RUN/run/policy"], "name data with --data"),
        (["choose", "RUN/run", "--discount", "1"], "discount 1.0"),
        (["choose", "RUN/run", "--members", "1"], "members 1"),
        (["choose", "RUN/run", "--seed", "-1"], "seed -1: must be from 0 to 2147483647"),
        (["choose", "RUN/run", "--json", "nowhere/x.json"], "no such folder"),
    ],
)
def test_bad_input(trained: Path, words: list[str], complaint: str) -> None:
    code, out, err = run_command(*[word.replace("RUN", str(trained)) for word in words])
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert complaint in err


@pytest.mark.parametrize("levels", [False, True])
def test_logs_of_levels_can_be_named_for_a_policy_folder(monkeypatch: pytest.MonkeyPatch, levels: bool) -> None:
    """A run says that its actions are levels; a policy folder does not."""
    asked: list[Any] = []

    def loaded(source: str, continuous: bool) -> Any:
        asked.append((source, continuous))
        raise InputError("enough")

    monkeypatch.setattr("tether.studies.choose._loaded", loaded)
    code, _, said = run_command(
        "choose", finished_run() / "policy", "--data", "log.hdf5", *(["--continuous"] if levels else [])
    )
    assert (code, asked) == (2, [("log.hdf5", levels)])
    assert "enough" in said
