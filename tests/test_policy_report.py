"""The report of a policy beside a log: its numbers are right, the page needs nothing else."""

import csv
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from make_data import columns, data_file, finished_run
from make_data import tether as command

from tether.data import Dataset, Normaliser, load_dataset
from tether.data.schema import ActionBox, Schema, layout_of
from tether.errors import InputError
from tether.policies.deployed import deploy
from tether.policies.loaded import LoadedPolicy
from tether.studies.policy_report.played import DRAWS, Played, Seeds, choose_stretches, load_seeds, play
from tether.types import Array, Spec

BOX = ActionBox((0.0, 10.0), (8.0, 30.0))
SCHEMA = Schema(layout_of({"T_C": 1, "p_bar": 1, "speed": 1}), layout_of({"pump": 1, "valve": 1}), BOX)
WEIGHTS = np.array([[0.1, -0.2, 0.0], [0.0, 0.05, 0.3]], np.float32)


class Affine(eqx.Module):
    """Acts by WEIGHTS."""

    weights: Array

    def __call__(self, observation: Array, key: Array) -> Array:
        return self.weights @ observation


def affine(shift: float = 0.0) -> LoadedPolicy:
    spec = Spec(3, 2)
    normaliser = Normaliser(np.full(3, shift, np.float32), np.ones(3, np.float32))
    module = deploy(Affine(jnp.asarray(WEIGHTS)), spec, normaliser, SCHEMA)
    document: dict[str, Any] = {"algorithm": "affine", "spec": spec._asdict(), "schema": SCHEMA.to_json()}
    return LoadedPolicy(module, document | {"hyperparameters": {}, "sha256": "0" * 64}, None)


def log(episodes: int = 10, steps: int = 20) -> Dataset:
    random, rows = np.random.default_rng(0), episodes * steps
    data = Dataset.from_arrays(
        observations=random.normal(0, 0.5, (rows, 3)),
        actions=random.uniform(-0.5, 0.5, (rows, 2)),
        rewards=random.normal(size=rows),
        terminals=np.zeros(rows, bool),
        timeouts=np.arange(1, rows + 1) % steps == 0,
    )
    return data.replace(schema=SCHEMA)


@pytest.fixture(scope="module")
def played() -> Played:
    return play(Seeds((affine(), affine(0.1)), ("seed 0", "seed 1"), 0), log(), 100)


def test_actions_are_in_units(played: Played) -> None:
    data = log()
    np.testing.assert_allclose(played.logged, BOX.from_unit(data.actions[played.rows]))
    expected = (data.observations[played.rows] @ WEIGHTS.T).clip(-1, 1) * BOX.scale + BOX.offset
    for draw in range(DRAWS):
        np.testing.assert_allclose(played.done[0, draw], expected, rtol=1e-5)
    other = ((data.observations[played.rows] - 0.1) @ WEIGHTS.T) * BOX.scale + BOX.offset
    np.testing.assert_allclose(played.middle, (expected + other) / 2, rtol=1e-5)
    width = np.ptp(BOX.from_unit(data.actions), axis=0)
    np.testing.assert_allclose(played.apart, np.abs(played.middle - played.logged) / width, rtol=1e-4)
    assert played.names == (["T_C", "p_bar", "speed"], ["pump", "valve"])


def test_sensitivity_is_a_move_by_a_deviation(played: Played) -> None:
    expected = np.abs(WEIGHTS.T) * log().observations.std(axis=0)[:, None] * BOX.scale
    np.testing.assert_allclose(played.sensitivity, expected, rtol=2e-3, atol=1e-4)


def test_stretches_are_spread_over_the_log(played: Played) -> None:
    assert len(played.rows) <= 100
    assert played.stretches[0].start == 0
    assert played.stretches[-1].end == 200
    for stretch in played.stretches:
        np.testing.assert_array_equal(played.rows[played.of(stretch)], np.arange(stretch.start, stretch.end))
        np.testing.assert_array_equal(played.step[played.of(stretch)] % 20, np.arange(stretch.start, stretch.end) % 20)
    alone = choose_stretches(log(1, 1000), 100)  # one long episode is looked at in several places
    assert len(alone) == 8
    assert alone[-1].end > 900


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"observations": np.zeros((200, 4)), "schema": None}, "observations of 4 numbers; the policy takes 3"),
        (
            {"schema": SCHEMA._replace(action=layout_of({"valve": 1, "pump": 1}))},
            "number 0 is 'valve'; the policy takes 'pump'",
        ),
    ],
)
def test_another_log_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        play(Seeds((affine(),), ("affine",), 0), log().replace(**change), 100)


def test_seeds_of_a_run_and_a_policy_alone() -> None:
    seeds = load_seeds(finished_run())
    assert seeds.names == ("seed 0", "seed 1")
    assert seeds.best.document["sha256"] == load_seeds(finished_run() / "policy").best.document["sha256"]
    assert len(load_seeds(finished_run() / "policy").each) == 1


class Outside(HTMLParser):
    """References of a page to anything else."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "href", "xlink:href") and value and not value.startswith(("#", "data:")):
                self.found.append(value)


def test_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    code = command("report", str(finished_run()), "--data", str(data_file()), "--rows", "60", "--out", str(out))[0]
    assert code == 0
    page = (out / "report.html").read_text(encoding="utf-8")
    outside = Outside()
    outside.feed(page)
    assert outside.found == []
    for word in (
        "action[0]",
        "observation[3]",
        "Largest disagreements",
        "Sensitivity",
        "seed 0, seed 1",
        "calibrated on",
    ):
        assert word in page, word
    with (out / "rows.csv").open() as file:
        rows = list(csv.DictReader(file))
    stored = columns()
    for row in rows[::7]:
        number = int(row["row"])
        assert float(row["observation[3]"]) == pytest.approx(stored["observations"][number, 3], rel=1e-4)
        assert float(row["action[1] logged"]) == pytest.approx(stored["actions"][number, 1], rel=1e-4)
        assert 0 < float(row["trust"]) <= 1
    assert load_dataset(str(data_file())).episode_bounds().starts[0] == 0
    assert command("report", "a", "b", "--data", str(data_file()))[0] == 2
