"""Demonstrations without rewards are imitated, methods that learn from rewards refuse them, and rewards that no critic
can learn are said aloud."""

import json
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from make_data import columns, tether, write_d4rl
from recordings import write_robomimic

from tether.algorithms import ALGORITHMS, DT, IQL
from tether.data import load_dataset, prepare
from tether.data.transforms import rewards_tell_nothing
from tether.doctor import check
from tether.errors import InputError
from tether.runs.alarms import Values, alarms_of, reachable_values, strange_metrics
from tether.training.lanes import Lane

SHORT = ("--preset", "none", "--updates", "3", "--batch-size", "4", "--environment", "none", "--set")
TINY = (*SHORT, "hidden_sizes=8")


def no_rewards(folder: Path) -> Path:
    return write_robomimic(folder / "demos.hdf5", rewards=None, dones=None)


def test_demonstrations_train_methods_that_imitate(tmp_path: Path) -> None:
    path = no_rewards(tmp_path)
    code, _, error = tether("train", "bc", path, *TINY, "--out", tmp_path / "bc")
    assert code == 0, error
    assert "data: not read: obs/agentview_image (8 x 8 x 3, pictures)" in error
    result = json.loads((tmp_path / "bc" / "result.json").read_text())
    assert (result["status"], result["behaviour"], result["alarms"]) == ("done", None, [])
    assert (tmp_path / "bc" / "policy" / "policy.json").is_file()
    assert json.loads((tmp_path / "bc" / "config.json").read_text())["data"]["rewards"] is None


def test_the_behaviour_part_of_others_trains_alone(tmp_path: Path) -> None:
    size = (*SHORT, "hidden_sizes=8", "actor_hidden_sizes=8", "--pretrain-updates", "3")
    path = no_rewards(tmp_path)
    code, _, error = tether("train", "bdpo-unimodal", path, *size, "--out", tmp_path / "both")
    assert code == 2
    assert f"{path} holds no rewards, and bdpo-unimodal learns from rewards (train)" in error
    assert not (tmp_path / "both").exists()
    code, _, error = tether("train", "bdpo-unimodal", path, *size, "--updates", "0", "--out", tmp_path / "behaviour")
    assert code == 0, error
    code, _, error = tether("train", "brac-p", path, *size, "--updates", "0", "--out", tmp_path / "none")
    assert (code, error.count("\n")) == (2, 1)
    assert "updates 0: the train phase, which makes the policy, needs at least 1" in error


@pytest.mark.parametrize("name", [name for name, cls in ALGORITHMS.items() if cls().phases()[0].gives_policy])
def test_the_policy_after_the_behaviour_phase_is_the_behaviour(name: str) -> None:
    """What `--updates 0` leaves: the averaged behaviour, not the networks that the actor began with."""
    algorithm = ALGORITHMS[name]()
    rows = prepare(bundled := load_dataset("halfcheetah-medium-replay-small")).transitions
    batch = jax.tree.map(lambda column: jnp.asarray(column[:32]), rows)
    state = algorithm.init(prepare(bundled).spec, jax.random.key(0))
    before = algorithm.policy(state)
    for step in range(2):
        state, _ = algorithm.pretrain_update(state, batch, jax.random.key(step), jnp.asarray(step))
    policy = algorithm.policy(state)
    assert eqx.tree_equal(state.actor, state.target_behaviour)
    assert eqx.tree_equal(state.target_actor, state.target_behaviour)
    assert not eqx.tree_equal(policy, before)


def test_methods_that_need_rewards_refuse_data_without(tmp_path: Path) -> None:
    """By name, before anything is written, with what to do."""
    for path in (no_rewards(tmp_path), write_d4rl(tmp_path / "zero.hdf5", rewards=np.zeros(400))):
        code, _, error = tether("train", "iql", path, *TINY, "--out", tmp_path / "run")
        assert code == 2
        assert "iql learns from rewards; imitate with bc or diffusion-bc" in error
        assert error.count("\n") == 1
        assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match=r"reward transform 'standardise': .* has no rewards"):
        prepare(load_dataset(str(tmp_path / "demos.hdf5")), "standardise")


def test_tables_without_a_reward_are_demonstrations(tmp_path: Path) -> None:
    log = {"observation_x": np.arange(6.0), "action_u": np.linspace(-1, 1, 6), "episode": np.array([0, 0, 0, 1, 1, 1])}
    np.savez(tmp_path / "log.npz", **log)
    data = load_dataset(str(tmp_path / "log.npz"))
    assert not data.has_rewards
    assert data.notes == ("no column is called reward or rewards",)
    report = check(tmp_path / "log.npz")
    assert (report.data.purpose, report.grade, report.refused) == ("imitation", "A", "")
    np.savez(tmp_path / "ogbench.npz", qpos=np.zeros((6, 2)), **log)  # whose rewards its environment computes
    with pytest.raises(InputError, match="do not follow the convention"):
        load_dataset(str(tmp_path / "ogbench.npz"))


def test_what_imitates_says_so() -> None:
    silent = {name for name, cls in ALGORITHMS.items() if not any(phase.reads_rewards for phase in cls().phases())}
    assert silent == {"bc", "diffusion-bc"}


@pytest.mark.parametrize(
    ("reward", "terminals", "lengths", "nothing"),
    [
        (0.0, [2, 9], [3, 7], True),
        (1.0, [], [10], True),
        (1.0, [4, 9], [5, 5], True),
        (1.0, [2, 9], [3, 7], False),  # staying alive pays
        (-1.0, [2], [3, 7], False),  # each step until the goal costs
    ],
)
def test_equal_rewards_tell_something_where_lengths_do(
    reward: float, terminals: list[int], lengths: list[int], nothing: bool
) -> None:
    flags = np.isin(np.arange(10), terminals)
    assert rewards_tell_nothing(np.full(10, reward), flags, np.array(lengths)) is nothing


def test_constant_rewards_are_judged_as_they_are_trained_on(tmp_path: Path) -> None:
    """r - 1 makes a charge for each step of rewards that are 0 until the goal."""
    ends = np.isin(np.arange(400), (30, 100, 250, 399))
    none: dict[str, Any] = {"rewards": np.zeros(400), "terminals": ends, "timeouts": np.zeros(400, bool)}
    data = load_dataset(str(write_d4rl(tmp_path / "goal.hdf5", **none)))
    assert prepare(data).no_rewards == "holds 400 rewards that are all 0"
    assert prepare(data, "iql_antmaze").no_rewards == ""


# --- alarms -------------------------------------------------------------------------------------------------


def test_rewards_of_another_planet_raise_an_alarm(tmp_path: Path) -> None:
    path = write_d4rl(tmp_path / "huge.hdf5", rewards=1e9 * columns()["rewards"])
    code, _, error = tether("train", "iql", path, *TINY, "--quiet", "--out", tmp_path / "run")
    assert code == 0, error
    alarms = [line for line in error.splitlines() if line.startswith("alarm: critic/q_loss is ")]
    assert len(alarms) == 1
    assert "train update 3 of lane 0: rewards reach 3" in alarms[0]
    assert "--reward-transform" in alarms[0]
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    found = {alarm["metric"]: alarm for alarm in result["alarms"]}
    assert found["critic/q_loss"]["value"] > 1e17
    assert (found["critic/q_loss"]["lane"], found["critic/q_loss"]["update"]) == (0, 3)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["alarm"] for row in rows] == [1]


def test_ordinary_numbers_raise_none() -> None:
    usual = {"critic/q_loss": 1e8, "critic/q": -9e4, "actor/loss": -1e9, "behaviour/steps": 1e7, "update": 10**12}
    assert strange_metrics(usual) == {}
    huge = {"critic/q_loss": 1.1e10, "actor/q": -2e5, "critic/value": 1e6, "actor/loss": None}
    assert set(strange_metrics(huge)) == {"critic/q_loss", "actor/q", "critic/value"}


def test_an_alarm_is_the_first_row_of_each_lane() -> None:
    rows = [
        {"phase": "train", "update": update, "lane": lane, "critic/q": 1e4 * update * (lane + 1)}
        for update in (5, 8, 15, 20)
        for lane in (0, 1)
    ]
    assert [(alarm.lane, alarm.update) for alarm in alarms_of(rows)] == [(1, 8), (0, 15)]


def test_a_critic_that_leaves_what_rewards_can_add_up_to_raises_an_alarm() -> None:
    lanes = [Lane(0, {}), Lane(1, {"discount": 0.9})]
    reachable = reachable_values(IQL(discount=0.99), lanes, [-1.0, 2.0])
    np.testing.assert_allclose(np.array(reachable), [(-100, 200), (-10, 20)], rtol=1e-6)
    assert strange_metrics({"critic/q": 790.0}, Values(-100.0, 200.0)) == {}  # an overshoot may pass
    assert strange_metrics({"critic/q": 810.0}, Values(-100.0, 200.0)) == {"critic/q": 810.0}
    assert strange_metrics({"critic/q": -810.0, "critic/value": 810.0}, Values(-100.0, 200.0)) == {"critic/q": -810.0}
    assert strange_metrics({"critic/q": 1.0}, Values(-1.0, 2e5)) == {"rewards": 2e5}
    rows = [{"phase": "train", "update": 5, "lane": lane, "critic/q": 90.0} for lane in (0, 1)]
    assert [alarm.lane for alarm in alarms_of(rows, reachable)] == [1]
    assert reachable_values(IQL(), lanes, None) == reachable_values(DT(), lanes, [0.0, 1.0]) == [None, None]


def test_a_target_that_never_changes_raises_an_alarm() -> None:
    assert strange_metrics({"critic/q": 50.0, "critic/q_loss": 1e-9}) == {"critic/q_loss": 1e-9}
    assert strange_metrics({"critic/q": 50.0, "critic/q_loss": 1e-5}) == {}
    assert strange_metrics({"critic/q": 0.0, "critic/q_loss": 0.0}) == {}  # nothing is learnt yet
