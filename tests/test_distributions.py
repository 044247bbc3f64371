"""Critics that learn a distribution: HL-Gauss and quantiles."""

import json
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tether
from tether.algorithms import ALGORITHMS
from tether.algorithms.callables import values_beyond_bins
from tether.algorithms.registry import field_names
from tether.algorithms.shared.losses import q_errors
from tether.data import Dataset, view_of
from tether.networks import QEnsemble, ValueNetwork, stack_heads
from tether.networks.distributions import BINS, Distribution, HLGauss, Quantiles
from tether.networks.factories import has_unknown_range, value_range, with_range, without_range
from tether.runs.config import prepare_training
from tether.training.lanes import make_lanes
from tether.types import Spec, Transition

LOW, HIGH = -2.0, 6.0
HISTOGRAM = HLGauss(lambda x: x, LOW, HIGH)  # pyright: ignore[reportArgumentType]
QUANTILES = Quantiles(lambda x: x)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("target", [-1.5, 0.0, 0.123, 3.3, 5.4])
def test_the_histogram_of_a_target_has_its_mean(target: float) -> None:
    probability = HISTOGRAM.histogram(jnp.float32(target))
    np.testing.assert_allclose(probability.sum(), 1.0, rtol=1e-5)
    centres = (HISTOGRAM.edges[1:] + HISTOGRAM.edges[:-1]) / 2
    np.testing.assert_allclose((probability * centres).sum(), target, atol=1e-3)
    spread = np.sqrt((probability * (centres - target) ** 2).sum())
    width = (HIGH - LOW) / BINS
    np.testing.assert_allclose(spread, np.sqrt(0.75**2 + 1 / 12) * width, rtol=0.02)  # and the bins' own width


@pytest.mark.parametrize(("target", "end"), [(-100.0, LOW), (100.0, HIGH)])
def test_targets_beyond_the_range_are_its_ends(target: float, end: float) -> None:
    np.testing.assert_array_equal(HISTOGRAM.histogram(jnp.float32(target)), HISTOGRAM.histogram(jnp.float32(end)))
    assert np.isfinite(jax.grad(HISTOGRAM.error)(jnp.zeros(BINS), jnp.float32(target))).all()


def test_the_cross_entropy_is_least_at_the_histogram() -> None:
    target = jnp.float32(1.7)
    best = jnp.log(jnp.maximum(HISTOGRAM.histogram(target), 1e-30))
    np.testing.assert_allclose(jax.grad(HISTOGRAM.error)(best, target), 0.0, atol=1e-6)
    np.testing.assert_allclose(HISTOGRAM(best), [1.7], atol=1e-3)


def test_quantiles_of_many_targets_are_found() -> None:
    targets = jnp.asarray(np.random.default_rng(0).uniform(0.0, 20.0, 2000), jnp.float32)

    def loss(quantiles: jax.Array) -> jax.Array:
        return jax.vmap(QUANTILES.error, (None, 0))(quantiles, targets).mean()

    def step(_: Any, quantiles: Any) -> Any:
        return quantiles - 0.3 * jax.grad(loss)(quantiles)

    found = jax.lax.fori_loop(0, 1000, step, jnp.zeros(Quantiles.outputs))
    levels = (np.arange(Quantiles.outputs) + 0.5) / Quantiles.outputs
    np.testing.assert_allclose(found, 20.0 * levels, atol=0.7)
    np.testing.assert_allclose(QUANTILES(found), [targets.mean()], atol=0.2)


@pytest.mark.parametrize("network", ["hl-gauss=-2,6", "quantile+layernorm", "residual+hl-gauss=-2,6+8x8"])
@pytest.mark.parametrize("heads", [2, 3])
def test_an_ensemble_answers_with_means_and_learns_by_its_own_errors(network: str, heads: int) -> None:
    critic = QEnsemble(jax.random.key(0), 3, 2, (8, 8), ensemble_size=heads, network=network)
    rows = jax.random.normal(jax.random.key(1), (4, 3)), jax.random.normal(jax.random.key(2), (4, 2))
    target = jnp.linspace(-1.0, 4.0, 4)
    batch = Transition(rows[0], rows[1], target, rows[0], jnp.zeros(4))
    for ensemble in (critic, stack_heads(critic)):
        errors, q = q_errors(ensemble, batch, target)
        for i, head in enumerate(critic.heads):
            assert isinstance(head, Distribution)
            x = jnp.concatenate(rows, axis=1)
            np.testing.assert_allclose(q[:, i], jax.vmap(head)(x)[:, 0], rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(errors[:, i], jax.vmap(head.error)(x, target), rtol=1e-5)
    value = ValueNetwork(jax.random.key(0), 3, (8,), network=network)
    assert value(jnp.zeros(3)).shape == ()


def _one_step(rows: int = 400) -> Dataset:
    """Episodes of one row: the reward is 3 for the first half of the actions, -1 for the others."""
    random = np.random.default_rng(0)
    actions = random.uniform(-1, 1, (rows, 1))
    rewards = np.where(actions[:, 0] < 0, 3.0, -1.0)
    return Dataset.from_arrays(random.normal(size=(rows, 1)), actions, rewards, np.ones(rows))


@pytest.mark.parametrize("network", ["hl-gauss", "quantile"])
def test_a_run_takes_the_range_from_its_data_and_finds_the_values(network: str, tmp_path: Path) -> None:
    options = tether.Options(batch_size=64, log_every_updates=100)
    algorithm = tether.IQL(critic_network=network, hidden_sizes=(32,), train_updates=600, critic_learning_rate=3e-3)
    tether.train(algorithm, _one_step(), environment="none", options=options, out=tmp_path / "run", quiet=True)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    wanted = "hl-gauss=-3,7" if network == "hl-gauss" else "quantile"  # -1 to 3, half as much below and once above
    assert config["hyperparameters"]["critic_network"] == wanted
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert abs(last["critic/q"] - 1.0) < 0.3
    assert last["actor/loss"] is not None
    again = tether.resume(tmp_path / "run", dataset=_one_step(), quiet=True)
    assert again.status == "done"
    tether.load_policy(tmp_path / "run")


def test_the_range_is_that_of_every_lane_and_of_the_returns_that_are_learnt() -> None:
    def network(algorithm: Any, data: Dataset, discounts: list[float]) -> str:
        lanes = make_lanes(algorithm, [0], {"discount": discounts} if discounts else {})
        how = {"view": view_of(algorithm)}
        return prepare_training(algorithm, lanes, data, tether.Options(batch_size=2), how)[0].critic_network

    def wanted(low: float, high: float) -> str:
        return with_range("hl-gauss", *value_range((low, high)))

    rows = np.zeros((6, 1)), np.zeros((6, 1))
    paid = Dataset.from_arrays(*rows, [0.0, 1.0, 1.0, 1.0, 1.0, 1.0], np.arange(6) == 5)
    swept = network(tether.IQL(critic_network="hl-gauss"), paid, [0.5, 0.9])
    assert swept == wanted(0.5 * (1 - 0.5**5) / 0.5, (1 - 0.9**5) / 0.1)
    failures = Dataset.from_arrays(*rows, [-1.0] * 5 + [0.0], np.arange(6) == 5, timeouts=np.arange(6) == 2)
    assert network(tether.CalQL(critic_network="hl-gauss"), failures, []) == wanted(-100.0, 0.0)  # -1 / (1 - 0.99)
    mean = (-3 - 100 * 5 / 6) / (3 + 100)  # of the three rows that were cut, and of all as a hundred rows
    cut = -(1 + 0.99 + 0.99**2) + 0.99**3 * 100 * mean
    assert network(tether.IQL(critic_network="hl-gauss"), failures, []) == wanted(cut, 0.0)


def test_a_run_says_where_values_may_leave_the_bins(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for algorithm in (tether.ReBRAC, tether.IQL):
        made = algorithm(critic_network="hl-gauss", hidden_sizes=(8,), train_updates=2)
        out = tmp_path / algorithm.__name__
        tether.train(made, _one_step(), environment="none", options=tether.Options(batch_size=8), out=out, quiet=True)
    line = "critic_network hl-gauss: .* ReBRAC critic_penalty is taken off the targets; .* hl-gauss=LOW,HIGH .*quantile"
    assert len(re.findall(line, err := capsys.readouterr().err)) == err.count("its bins lie") == 1, err


def test_algorithms_whose_targets_are_not_returns_alone() -> None:
    def beyond(network: str) -> set[str]:
        having = (name for name in ALGORITHMS if "critic_network" in field_names(ALGORITHMS[name]))
        return {name for name in having if values_beyond_bins(ALGORITHMS[name](critic_network=network))}

    assert beyond("hl-gauss") == {"rebrac", "brac-v", "sac", "dsrl", "rlpd", "cql", "cal-ql"}
    assert beyond("hl-gauss=-2,6") == beyond("quantile") == set()


def test_ranges_in_names() -> None:
    assert has_unknown_range("hl-gauss+layernorm")
    assert not has_unknown_range("hl-gauss=-2,6")
    assert with_range("hl-gauss+layernorm", -1e6, 2.5e7) == "hl-gauss=-1e06,2.5e07+layernorm"
    assert without_range("hl-gauss=-1e06,2.5e07+layernorm") == "hl-gauss+layernorm"
    assert value_range((5.0, 5.0))[0] < 5.0 < value_range((5.0, 5.0))[1]


@pytest.mark.parametrize(
    ("network", "words"),
    [
        ("hl-gauss=3", "LOW,HIGH"),
        ("hl-gauss=3,3", "LOW,HIGH"),
        ("hl-gauss=a,b", "LOW,HIGH"),
        ("quantile=1,2", "no range"),
        ("hl-gauss=100000000,100000001", "float32"),
        ("hl-gauss=1e38,3e38", "float32"),
        ("hl-gauss+quantile", "second distribution"),
    ],
)
def test_ranges_that_are_none_are_refused(network: str, words: str) -> None:
    with pytest.raises(tether.InputError, match=words):
        QEnsemble(jax.random.key(0), 1, 1, (4,), network=network)


def test_where_there_is_no_loss_for_them_distributions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(tether.InputError, match="say where its bins lie"):
        tether.IQL(critic_network="hl-gauss").init(Spec(1, 1), jax.random.key(0))
    wrong = (
        tether.BDPO(critic_network="quantile"),
        tether.IQL(actor_network="quantile"),
        tether.SfBC(critic_network="hl-gauss"),  # its returns are standardised, the range is that of those as they are
    )
    for algorithm in wrong:
        with pytest.raises(tether.InputError, match="no loss for distributions"):
            tether.train(algorithm, _one_step(), environment="none", out=tmp_path / "run", quiet=True)


SERVED = ["dtql", "dac", "iql", "td3-bc", "rebrac", "fql", "best-of-n", "dsrl", "cql", "cal-ql", "rlpd"]


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n == "iql" else pytest.mark.long) for n in SERVED])
@pytest.mark.parametrize("network", ["hl-gauss=-2,6", "quantile"])
def test_their_gradients_reach_the_critics(name: str, network: str) -> None:
    """Every weight of every distribution moves in an update."""
    algorithm = ALGORITHMS[name](critic_network=network, hidden_sizes=(8, 8))
    state = algorithm.init(Spec(2, 1), jax.random.key(0))
    rows = jax.random.normal(jax.random.key(1), (16, 2))
    columns: dict[str, Any] = {"next_action": jnp.zeros((16, 1)), "return_to_go": rows[:, 0]}
    batch = Transition(rows, jnp.tanh(rows[:, :1]), rows[:, 0], rows + 0.1, jnp.zeros(16), **columns)
    after, _ = algorithm.phases()[-1].update(state, batch, jax.random.key(2), jnp.zeros((), jnp.int32))

    def heads(state: Any) -> Any:
        critic = state.critic
        return getattr(critic, "q", critic).heads

    for before, now in zip(jax.tree.leaves(heads(state)), jax.tree.leaves(heads(after)), strict=True):
        assert (before != now).any()
