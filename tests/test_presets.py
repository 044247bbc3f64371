"""DTQL's presets against the paper's table, typed in a second time."""

import pytest

from tether.errors import InputError
from tether.presets import get_preset, load_presets, preset_names

# Paper Table 4 and the authors' code (spec section 11):
# task: alpha, tau, lambda_nll, pretraining epochs, training epochs, learning rate, decay, batch
PAPER = """
halfcheetah-medium-v2          1     0.7  0  50  1000  3e-4  no   256
halfcheetah-medium-replay-v2   5     0.7  0  50  1000  3e-4  no   256
halfcheetah-medium-expert-v2   50    0.7  0  50  1000  3e-4  no   256
hopper-medium-v2               5     0.7  0  50  1000  1e-4  yes  256
hopper-medium-replay-v2        5     0.7  0  50  1000  3e-4  no   256
hopper-medium-expert-v2        20    0.7  0  50  1000  3e-4  no   256
walker2d-medium-v2             5     0.7  0  50  1000  3e-4  yes  256
walker2d-medium-replay-v2      5     0.7  0  50  1000  3e-4  yes  256
walker2d-medium-expert-v2      5     0.7  0  50  1000  3e-4  yes  256
antmaze-umaze-v0               1     0.9  1  50  500   3e-4  no   2048
antmaze-umaze-v2               1     0.9  1  50  500   3e-4  no   2048
antmaze-umaze-diverse-v0       1     0.9  1  50  500   3e-5  yes  2048
antmaze-umaze-diverse-v2       1     0.9  1  50  500   3e-5  yes  2048
antmaze-medium-play-v0         1     0.9  1  50  400   3e-4  no   2048
antmaze-medium-diverse-v0      1     0.9  1  50  400   3e-4  no   2048
antmaze-large-play-v0          1     0.9  1  50  350   3e-4  no   2048
antmaze-large-diverse-v0       0.5   0.9  1  50  300   3e-4  no   2048
antmaze-medium-play-v2         1     0.9  1  50  500   3e-4  no   2048
antmaze-medium-diverse-v2      1     0.9  1  50  500   3e-4  no   2048
antmaze-large-play-v2          1     0.9  1  50  500   3e-4  no   2048
antmaze-large-diverse-v2       0.5   0.9  1  50  500   3e-4  no   2048
pen-human-v1                   1500  0.9  0  50  300   3e-5  yes  256
pen-cloned-v1                  1500  0.7  0  50  200   1e-5  no   256
kitchen-complete-v0            200   0.7  0  50  500   1e-4  yes  256
kitchen-partial-v0             100   0.7  0  50  1000  1e-4  yes  256
kitchen-mixed-v0               200   0.7  0  50  500   3e-4  yes  256
"""
ROWS = [line.split() for line in PAPER.strip().splitlines()]


def test_there_are_the_26_tasks() -> None:
    assert len(ROWS) == 26
    assert sorted(preset_names("dtql")) == sorted(row[0] for row in ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_every_number(row: list[str]) -> None:
    task, alpha, tau, likelihood, pretrain, train, rate, decay, batch = row
    domain = task.split("-")[0]
    assert get_preset("dtql", task) == {
        "trust_region_weight": float(alpha),
        "expectile": float(tau),
        "log_likelihood_weight": float(likelihood),
        "pretrain_updates": int(pretrain) * 1000,
        "train_updates": int(train) * 1000,
        "learning_rate": float(rate),
        "critic_learning_rate": 3e-4,
        "cosine_decay": decay == "yes",
        "q_normalization": "none",
        "discount": 0.99,
        "target_rate": 0.005,
        "candidates": 1024,
        "batch_size": int(batch),
        "reward_transform": "iql_antmaze" if domain == "antmaze" else "none",
        "observation_transform": "none",
        "eval_every_updates": 50_000,
        "eval_episodes": 10 if domain in ("halfcheetah", "hopper", "walker2d") else 100,
    }


def test_types_are_those_of_the_fields() -> None:
    """TOML's 1 and 1.0 differ, and so do a static int and a traced float."""
    reals = {
        "trust_region_weight",
        "expectile",
        "log_likelihood_weight",
        "learning_rate",
        "critic_learning_rate",
    }
    reals |= {"discount", "target_rate"}
    for settings in load_presets("dtql").values():
        for name, value in settings.items():
            if name in reals:
                assert type(value) is float
            elif name.endswith(("updates", "episodes", "candidates", "batch_size")):
                assert type(value) is int


def test_algorithm_knows_every_field() -> None:
    dtql = pytest.importorskip("tether.algorithms.dtql").DTQL
    run = {"batch_size", "reward_transform", "observation_transform", "eval_every_updates", "eval_episodes"}
    for settings in load_presets("dtql").values():
        algorithm = dtql(**{name: value for name, value in settings.items() if name not in run})
        assert algorithm.trust_region_weight == settings["trust_region_weight"]


def test_presets_are_the_callers_own() -> None:
    get_preset("dtql", "pen-human-v1")["discount"] = 0.0
    assert get_preset("dtql", "pen-human-v1")["discount"] == 0.99


@pytest.mark.parametrize(
    ("algorithm", "task", "message"),
    [
        ("dtql", "hoper-medium-v2", "did you mean hopper-medium-v2"),
        ("dtqll", "hopper-medium-v2", "did you mean dtql"),
        ("../dtql", "hopper-medium-v2", "unknown algorithm with presets"),
        ("__init__", "hopper-medium-v2", "unknown algorithm with presets"),
    ],
)
def test_unknown_names(algorithm: str, task: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        get_preset(algorithm, task)
