"""Episodes that training does not see, and the losses on them."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from make_data import data_file, rows
from make_data import tether as command

import tether
from tether.algorithms import ALGORITHMS
from tether.data import load_dataset, prepare, view_of
from tether.data.holdout import hold_out
from tether.errors import InputError
from tether.runs.plan import Options
from tether.training.validation import at_rest, minibatches


def test_whole_episodes_are_held_out_always_the_same() -> None:
    data = load_dataset(str(data_file()))
    kept, held, record = hold_out(data, "0.3")
    assert held is not None
    starts, ends, _ = data.episode_bounds()
    episodes = [data.observations[start:end].tobytes() for start, end in zip(starts, ends, strict=True)]
    parts = [
        [part.observations[start:end].tobytes() for start, end in zip(*part.episode_bounds()[:2], strict=True)]
        for part in (kept, held)
    ]
    assert sorted(parts[0] + parts[1]) == sorted(episodes)
    assert len(parts[1]) == record["held_out_episodes"] == round(0.3 * len(episodes))
    assert record["held_out_rows"] == len(held)
    np.testing.assert_array_equal(held.observations, hold_out(data, "0.3")[1].observations)  # type: ignore[union-attr]


def test_statistics_are_those_of_what_is_trained_on() -> None:
    data = load_dataset(str(data_file()))
    prepared = prepare(data, observation_transform="standardise", reward_transform="standardise", holdout="0.4")
    kept, held, _ = hold_out(data, "0.4")
    alone = prepare(kept, observation_transform="standardise", reward_transform="standardise")
    np.testing.assert_array_equal(prepared.normaliser.mean, alone.normaliser.mean)
    np.testing.assert_array_equal(prepared.transitions.reward, alone.transitions.reward)
    np.testing.assert_array_equal(prepared.seen.low, kept.observations.min(axis=0))
    numbers = alone.record["reward_transform"]
    assert held is not None
    assert prepared.held_out is not None
    expected = (held.transitions_and_rows()[0].reward - numbers["mean"]) / numbers["std"]
    np.testing.assert_allclose(prepared.held_out.reward, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("1.0", "write a fraction between 0 and 1"),
        ("-0.1", "write a fraction between 0 and 1"),
        ("tenth", "write a fraction between 0 and 1"),
        ("mask=valid", "has no masks; write a fraction"),
    ],
)
def test_what_cannot_be_held_out(rule: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        hold_out(load_dataset(str(data_file())), rule)


def test_masks_of_the_data(tmp_path: Path) -> None:
    data = load_dataset(str(data_file()))
    starts, ends, _ = data.episode_bounds()
    valid = np.repeat(np.arange(len(starts)) % 2 == 1, ends - starts)
    kept, held, _ = hold_out(dataclasses.replace(data, masks={"valid": valid}), "mask=valid")
    assert held is not None
    np.testing.assert_array_equal(held.observations, data.observations[valid])
    np.testing.assert_array_equal(kept.observations, data.observations[~valid])
    with pytest.raises(InputError, match=r"every episode of .* is in this mask"):
        hold_out(dataclasses.replace(data, masks={"valid": np.ones(len(data), bool)}), "mask=valid")


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_at_rest_an_algorithm_moves_no_rate_is_forgotten(name: str) -> None:
    """Every numeric field that an optimiser or an average reads is called `...rate`."""
    rest = at_rest(ALGORITHMS[name]())
    rates = {field.name: getattr(rest, field.name) for field in dataclasses.fields(rest) if "rate" in field.name}
    assert rates
    assert all(float(rate) == 0 for rate in rates.values()), rates


@pytest.mark.parametrize("name", [pytest.param("dtql", marks=pytest.mark.long), "iql", "td3-bc"])
def test_an_update_at_rest_changes_no_parameter(name: str) -> None:
    small: dict[str, Any] = {"hidden_sizes": (8,)}
    algorithm = ALGORITHMS[name]()
    known = {field.name for field in dataclasses.fields(algorithm)}
    sizes = {key: (8,) for key in known if key.endswith("hidden_sizes")} | small
    algorithm = at_rest(dataclasses.replace(algorithm, **{k: v for k, v in sizes.items() if k in known}))
    state = algorithm.init(tether.Spec(3, 2), jax.random.key(0))
    columns = jax.random.normal(jax.random.key(1), (4, 10))
    batch = tether.Transition(
        columns[:, :3], jax.numpy.tanh(columns[:, 3:5]), columns[:, 5], columns[:, 6:9], 0 * columns[:, 9]
    )
    after, _ = algorithm.phases()[-1].update(state, batch, jax.random.key(2), jax.numpy.int32(4))
    for key, before in state._asdict().items():
        if "optimiser" not in key:
            jax.tree.map(np.testing.assert_array_equal, getattr(after, key), before)


@pytest.mark.parametrize("step", [4, 5])
def test_losses_of_delayed_updates_are_those_of_each_minibatch(step: int) -> None:
    """TD3+BC's actor learns in every second update: of a single minibatch its losses were doubled, or 0."""
    given = tether.TD3BC(hidden_sizes=(8,))
    algorithm = at_rest(given)
    assert given.actor_update_interval == 2
    state = algorithm.init(tether.Spec(3, 2), jax.random.key(0))
    columns = jax.random.normal(jax.random.key(1), (4, 10))
    batch = tether.Transition(
        columns[:, :3], jax.numpy.tanh(columns[:, 3:5]), columns[:, 5], columns[:, 6:9], 0 * columns[:, 9]
    )
    _, metrics = algorithm.phases()[-1].update(state, batch, jax.random.key(2), jax.numpy.int32(step))
    expected = np.mean((np.asarray(jax.vmap(state.actor)(batch.observation)) - np.asarray(batch.action)) ** 2)
    assert float(metrics["actor/cloning_loss"]) == pytest.approx(float(expected), rel=1e-5)


def test_every_row_once_or_as_many_as_are_looked_at() -> None:
    few = minibatches(100, 32)
    assert few.shape == (4, 32)
    assert set(few.ravel().tolist()) == set(range(100))
    many = minibatches(100_000, 32)
    assert many.shape == (40, 32)
    assert len(set(many.ravel().tolist())) == 40 * 32


SMALL = tether.BC(hidden_sizes=(16,), train_updates=40)
OPTIONS = Options(16, eval_every_updates=10, log_every_updates=15, checkpoint_every_updates=20)


def test_losses_are_those_of_a_plain_loop(tmp_path: Path) -> None:
    """One quantity, one number: what is logged is the mean of the algorithm's own loss over the held-out rows."""
    how: dict[str, Any] = {"options": OPTIONS, "holdout": 0.3, "environment": "none", "quiet": True}
    report = tether.train(SMALL, str(data_file()), seeds=2, out=tmp_path / "run", **how)
    logged = [row for row in rows(report.folder / "metrics.jsonl") if "validation/actor/loss" in row]
    assert [row["update"] for row in logged if row["lane"] == 1] == [10, 20, 30, 40]
    config = json.loads((report.folder / "config.json").read_text())
    assert config["data"]["holdout"]["name"] == "0.3"
    held = prepare(load_dataset(str(data_file())), view=view_of(SMALL), holdout="0.3").held_out
    assert held is not None
    for lane in range(2):
        policy = tether.load_policy(report.folder / "policies" / f"lane-{lane}")
        answers = policy(held.observation, jax.random.key(0))
        rows_looked_at = minibatches(len(held.reward), 16).ravel()
        errors = np.sum((answers - held.action)[rows_looked_at] ** 2, axis=1)
        last = logged[-2 + lane]
        assert last["lane"] == lane
        ratio = errors.mean() / last["validation/actor/loss"]
        assert ratio == pytest.approx(round(ratio), rel=1e-4)  # a sum or a mean over coordinates


def test_stopped_and_resumed_it_is_the_same(tmp_path: Path) -> None:
    how: dict[str, Any] = {"options": OPTIONS, "holdout": 0.3, "environment": "none", "quiet": True}
    whole = tether.train(SMALL, str(data_file()), out=tmp_path / "whole", **how)
    stop = tether.EarlyStopping("validation/actor/loss", 1, higher_is_better=True, least_gain=1e9)
    part = tether.train(SMALL, str(data_file()), out=tmp_path / "part", callbacks=[stop], **how)
    assert part.stopped_early == "no lane's validation/actor/loss got better for 1 evaluations"
    assert part.updates == 20
    tether.resume(part.folder, quiet=True)
    assert rows(part.folder / "metrics.jsonl") == rows(whole.folder / "metrics.jsonl")


def test_the_best_by_a_held_out_loss_is_kept(tmp_path: Path) -> None:
    keep = tether.KeepBest("validation/actor/loss", higher_is_better=False)
    how: dict[str, Any] = {"options": OPTIONS, "environment": "none", "quiet": True, "callbacks": [keep]}
    report = tether.train(SMALL, str(data_file()), seeds=2, holdout=0.3, out=tmp_path / "run", **how)
    logged = [row for row in rows(report.folder / "metrics.jsonl") if "validation/actor/loss" in row]
    best = min(logged, key=lambda row: row["validation/actor/loss"])
    notes = tether.load_policy(report.folder / "policy-best").document["notes"]
    assert (notes["update"], notes["lane"], notes["value"]) == (
        best["update"],
        best["lane"],
        best["validation/actor/loss"],
    )
    with pytest.raises(InputError, match="holds no episodes out; train with --holdout"):
        tether.train(SMALL, str(data_file()), out=tmp_path / "none", **how)


def test_losses_are_drawn_where_nothing_was_evaluated(tmp_path: Path) -> None:
    how: dict[str, Any] = {"options": OPTIONS, "environment": "none", "quiet": True}
    report = tether.train(SMALL, str(data_file()), holdout=0.3, out=tmp_path / "run", **how)
    assert (report.folder / "losses.png").read_bytes().startswith(b"\x89PNG\r\n")
    assert command("plot", report.folder) == (0, f"{report.folder / 'losses.png'}\n", "")
    assert command("plot", report.folder, "--losses", "--out", tmp_path / "a.pdf")[0] == 0
    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")
