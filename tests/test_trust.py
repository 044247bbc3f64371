"""Trust: the rate of false alarms is what is promised, foreign decisions are found, reasons are in the log's words."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
import tether_runtime.support
import tether_runtime.trust
from make_data import columns, finished_run

from tether import InputError, load_policy
from tether.data import Dataset
from tether.data.decisions import CALIBRATION, FITTING, SCALING, Decisions, sample_decisions
from tether.data.schema import ActionBox, Schema, layout_of
from tether.policies.document import document_hash
from tether.policies.folder import save_policy
from tether.policies.loaded import LoadedPolicy
from tether.policies.trusted import Judge
from tether.runs import plan
from tether.trust import Calibrated, behaviour, calibrate, reasons, score, support, threshold, trust_of

OBSERVATION = columns()["observations"][7]


def reactor(episodes: int, seed: int = 0, steps: int = 50) -> Dataset:
    """A plant whose second column follows the first, an action in two modes, another that never changes."""
    random = np.random.default_rng(seed)
    rows = episodes * steps
    temperature = 20 + np.repeat(random.normal(size=episodes), steps) + 0.5 * random.normal(size=rows)
    pressure = 3 + 0.2 * (temperature - 20) + 0.01 * random.normal(size=rows)
    observations = np.stack([temperature, pressure, np.full(rows, 7.0)], axis=1)
    side = random.choice([-1, 1], rows)
    pump = np.tanh(0.3 * (temperature - 20)) * 0.3 + 0.5 * side + 0.02 * random.normal(size=rows)
    ends = np.zeros(rows, bool)
    ends[steps - 1 :: steps] = True
    schema = Schema(
        layout_of({"T_reactor_C": 1, "p_bar": 1, "site": 1}),
        layout_of({"pump_rpm": 1, "valve": 1}),
        ActionBox((400.0, 5.0), (500.0, 5.0)),
    )
    return Dataset.from_arrays(
        observations=observations,
        actions=np.stack([pump.clip(-1, 1), np.zeros(rows)], axis=1),
        rewards=random.normal(size=rows),
        terminals=np.zeros(rows, bool),
        timeouts=ends,
    ).replace(schema=schema)


@pytest.fixture(scope="module")
def judged() -> Calibrated:
    decisions = sample_decisions(reactor(300))
    assert decisions is not None
    return calibrate(decisions, most_updates=0)


# --- the sample ---------------------------------------------------------------------------------------------


def test_parts_share_no_episode() -> None:
    data = reactor(60)
    decisions = sample_decisions(data)
    assert decisions is not None
    episode = {data.observations[row].tobytes(): row // 50 for row in range(len(data))}
    found = {
        part: {episode[each.tobytes()] for each in decisions.of(part).observation}
        for part in (FITTING, SCALING, CALIBRATION)
    }
    assert {part: len(numbers) for part, numbers in found.items()} == {FITTING: 33, SCALING: 8, CALIBRATION: 19}
    assert len(set.union(*found.values())) == 60
    assert (decisions.stretch_rows, decisions.held_out) == (None, False)
    calibrating = decisions.of(CALIBRATION)
    assert len(np.unique(calibrating.piece)) == 19
    assert len(decisions.observation) == len(data)


def test_held_out_episodes_calibrate() -> None:
    data, held = reactor(50), reactor(45, seed=1)
    decisions = sample_decisions(data, held)
    assert decisions is not None
    assert decisions.held_out
    np.testing.assert_array_equal(decisions.of(CALIBRATION).observation, held.observations)
    assert len(decisions.of(FITTING).observation) + len(decisions.of(SCALING).observation) == len(data)


def test_few_episodes_are_cut_into_stretches() -> None:
    decisions = sample_decisions(reactor(2, steps=500))
    assert decisions is not None
    assert decisions.stretch_rows == 5
    assert len(np.unique(decisions.of(CALIBRATION).piece)) == 64
    assert sample_decisions(reactor(1, steps=2)) is None  # three parts need three pieces


# --- the guarantee ------------------------------------------------------------------------------------------


def test_p_values_by_hand(judged: Calibrated) -> None:
    support = judged.support._replace(calibration=np.float32([1, 2, 2, 3]))
    np.testing.assert_allclose(
        trust_of(support, np.float32([0, 1, 2, 2.5, 3, 4, np.nan])), [1, 1, 0.8, 0.4, 0.4, 0.2, 0.2]
    )
    for share in (0.1, 0.2, 0.39, 0.4, 0.8, 0.99):
        limit = threshold(support, share)
        for total in np.array([[0], [1], [2], [2.5], [3], [4]]):
            assert (total > limit) == (trust_of(support, total) <= share + 1e-12), (share, total)


def test_a_hundredth_of_new_decisions_is_flagged(judged: Calibrated) -> None:
    """Of episodes that nobody has seen: the mean over many draws of the data is what is promised."""
    new = reactor(150, seed=9)
    total = score(judged.support, new.observations, new.actions).total
    for share in (0.01, 0.1):
        flagged = np.mean(total > threshold(judged.support, share))
        assert flagged == pytest.approx(share, abs=0.3 * share + 0.003)


def recurring(kind: str) -> Dataset:
    """6000 rows in units of 0 to 30: a valve that never moves; twelve states that recur, with a set point for each."""
    random, rows = np.random.default_rng(0), 6000
    states = random.integers(0, 12, rows)
    if kind == "constant":
        observations, actions = random.normal(size=(rows, 3)), np.full((rows, 1), 12.3)
    else:
        observations, actions = random.normal(size=(12, 7))[states], random.uniform(0, 30, (12, 2))[states]
    ends = np.arange(rows) % 100 == 99
    rewards = random.normal(size=rows)
    return Dataset.from_arrays(
        observations, actions, rewards, timeouts=ends, action_low=0, action_high=30, continuous=True
    )


@pytest.mark.parametrize("kind", ["constant", "recipe"])
@pytest.mark.parametrize("density", [False, True])
def test_round_off_flags_no_decision_of_the_data(kind: str, density: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of units, and of batches: distances that are 0 in the data are a little more behind it."""
    for name, value in (("FEWEST_ROWS", 1000), ("FEWEST_OF_DENSITY", 150), ("FEWEST_UPDATES", 150)):
        monkeypatch.setattr(behaviour, name, value if density else 10**9)
    monkeypatch.setattr(behaviour, "HIDDEN_SIZES", (32, 32))
    monkeypatch.setattr(behaviour, "MOST_EPOCHS", 250)  # of few rows, as many updates as of many
    data = recurring(kind)
    decisions, schema = sample_decisions(data), data.schema
    assert decisions is not None
    assert schema is not None
    calibrated = calibrate(decisions, 1500)
    made, box, rows = calibrated.support, schema.box, decisions.of(CALIBRATION)
    assert calibrated.is_finite
    assert (made.action_scale is not None) == density
    units = box.from_unit(rows.action).astype(np.float32)
    scale, offset = (np.asarray(part, np.float32) for part in (box.scale, box.offset))
    names = [f"observation[{j}]" for j in range(rows.observation.shape[1])], [f"action[{j}]" for j in range(len(scale))]
    theirs = tether_runtime.support.Support(*made)
    both = Judge(made, scale, offset, schema), tether_runtime.trust.Judge(theirs, scale, offset, names)
    for judge in both:
        flagged = judge(rows.observation, units, 0.01).flagged
        assert flagged.mean() < 0.012
        alone = [judge(*each, 0.01).flagged for each in zip(rows.observation[:200], units[:200], strict=True)]
        np.testing.assert_array_equal(alone, flagged[:200])
        assert judge(rows.observation[:200], units[:200] + np.float32(3.0), 0.01).flagged.all()
        assert judge(rows.observation[0] + np.float32(1e6), units[0], 0.01).flagged


def test_scores_that_are_no_numbers_are_foreign(judged: Calibrated) -> None:
    """A folder written before limits had a floor: an action distance of 0 for almost all made them 0, and NaN."""
    limits = np.array([1, 1e-6, 0, -np.inf], np.float32)
    for calibration in (np.full(500, np.nan, np.float32), judged.support.calibration):
        bad = judged._replace(support=judged.support._replace(limits=limits, calibration=calibration))
        assert not bad.is_finite
        total = np.array([np.nan, np.inf, 0.5] if np.isnan(calibration).all() else [np.nan, np.inf], np.float32)
        assert (trust_of(bad.support, total) == 1 / (len(calibration) + 1)).all()
        assert not (total <= threshold(bad.support, 0.01)).any()
    assert judged.is_finite


def test_a_run_keeps_no_trust_that_is_no_number(judged: Calibrated, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = judged._replace(support=judged.support._replace(calibration=np.full(9, np.nan, np.float32)))
    for made, kept in ((bad, None), (judged, judged)):
        monkeypatch.setattr(plan, "calibrate", lambda *_, made=made: made)
        of_a_run = SimpleNamespace(prepared=SimpleNamespace(decisions=object()), _updates=1)
        assert plan.Plan.trust.func(of_a_run) is kept  # pyright: ignore[reportArgumentType]


def test_foreign_decisions_are_found(judged: Calibrated) -> None:
    new, made, limit = reactor(20, seed=9), judged.support, threshold(judged.support, 0.01)
    for column in (0, 1):
        moved = new.observations.copy()
        moved[:, column] += 5 * made.observation_scale[column]
        assert np.mean(score(made, moved, new.actions).total > limit) > 0.95
    between = new.actions.copy()
    between[:, 0] = np.tanh(0.3 * (new.observations[:, 0] - 20)) * 0.3  # the mean of the two modes: never done
    assert np.mean(score(made, new.observations, between).action > limit) > 0.95
    # Each column alone has been seen often, together they have not.
    twisted = new.observations.copy()
    twisted[:, 1] = 6 - twisted[:, 1]
    off = np.abs(twisted[:, 1] - new.observations[:, 1]) > 0.2
    assert np.mean(score(made, twisted[off], new.actions[off]).total > limit) > 0.95


def test_network_is_fitted_where_rows_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    states = random.normal(size=(3000, 2)).astype(np.float32)
    actions = np.sin(2 * states[:, :1])
    few, _ = behaviour.fit_behaviour(states, actions, 10)
    assert len(few) == 1
    monkeypatch.setattr(behaviour, "FEWEST_UPDATES", 200)
    weights, biases = behaviour.fit_behaviour(states, actions, 200)
    hidden = states
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        hidden = np.maximum(hidden @ weight.T + bias, 0)
    assert np.mean((hidden @ weights[-1].T + biases[-1] - actions) ** 2) < 0.1 * np.var(actions)


# --- the density of actions, and what columns are by others ----------------------------------------------------


def test_both_forms_of_the_density_are_one_and_it_is_a_density() -> None:
    random, size, count = np.random.default_rng(0), 2, support.PLAIN + support.SATURATING
    given = random.normal(size=(50, size + count * (1 + 2 * size))).astype(np.float32)
    action, scale = random.uniform(-1, 1, (50, size)).astype(np.float32), np.float32([0.3, 0.7])
    action[0] = 1.0
    ours = support.log_density(given, action, scale)
    theirs = behaviour.log_density(*map(jnp.asarray, (given, action, scale)))
    np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-5)
    grid = np.linspace(-1, 1, 20_001)[1:-1, None].astype(np.float32)
    one = np.float32([0.0] + [-9] * 4 + [9, 9] + [0.2] * count + [0.1] * count)  # of tanh alone
    density = np.exp(support.log_density(np.tile(one, (len(grid), 1)), grid, np.ones(1, np.float32)))
    assert density.sum() * 1e-4 / np.sqrt(2 * np.pi) == pytest.approx(1.0, abs=2e-3)


def test_a_density_is_fitted_where_rows_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("FEWEST_ROWS", 1000), ("FEWEST_OF_DENSITY", 400), ("HIDDEN_SIZES", (32, 32))):
        monkeypatch.setattr(behaviour, name, value)
    decisions = sample_decisions(reactor(300))
    assert decisions is not None
    made = calibrate(decisions, most_updates=500).support
    assert made.action_scale is not None
    new, limit = reactor(100, seed=9), threshold(made, 0.01)
    assert np.mean(score(made, new.observations, new.actions).total > limit) == pytest.approx(0.01, abs=0.006)
    between = new.actions.copy()
    between[:, 0] = np.tanh(0.3 * (new.observations[:, 0] - 20)) * 0.3  # the mean of the two modes: never done
    assert np.mean(score(made, new.observations, between).action > limit) > 0.95


def related(rows: int, seed: int) -> np.ndarray:
    """Eleven columns that nothing ties to each other, and their sum: no neighbour is near enough to know it."""
    columns = np.random.default_rng(seed).normal(size=(rows, 11))
    return np.hstack([columns, columns.sum(axis=1, keepdims=True)]).astype(np.float32)


def test_a_column_that_the_others_contradict_is_found() -> None:
    ends = np.arange(4000) % 20 == 19
    log = {"observations": related(4000, 0), "actions": np.zeros((4000, 1)), "rewards": np.zeros(4000)}
    data = Dataset.from_arrays(**log, terminals=np.zeros(4000, bool), timeouts=ends)
    decisions = sample_decisions(data)
    assert decisions is not None
    made, new, still = calibrate(decisions, most_updates=0).support, related(500, 1), np.zeros((500, 1), np.float32)
    moved = new + 3 * np.eye(12, dtype=np.float32)[11]  # its deviation is 3.3
    flagged = [np.mean(score(made, rows, still).total > threshold(made, 0.01)) for rows in (new, moved)]
    assert flagged[0] < 0.03
    assert flagged[1] > 0.99
    usual = np.zeros((1, 12), np.float32)
    usual[0, 11] = 2.0
    names = [f"x{j}" for j in range(12)], ["u"]
    scores = score(made, usual, still[:1])
    assert reasons(made, usual, still[:1], scores, 0.01, names, lambda a: a)[0][0].endswith(" by the other columns")
    before = made._replace(relations=None, relation_limits=None)
    assert np.mean(score(before, moved, still).total > threshold(made, 0.01)) < 0.5  # a folder of format 4


# --- words --------------------------------------------------------------------------------------------------


def said(judged: Calibrated, observation: list[float], action: list[float]) -> list[str]:
    """Reasons for one decision in units."""
    schema = reactor(1).schema
    assert schema is not None
    judge = Judge(judged.support, schema.box.scale, schema.box.offset, schema)
    return judge(np.float32(observation), np.float32(action), 0.01).reasons


def test_reasons_name_columns_in_units(judged: Calibrated) -> None:
    assert said(judged, [20.0, 3.0, 7.0], [475.0, 5.0]) == []
    low, high = judged.support.observation_low[0], judged.support.observation_high[0]
    hot = said(judged, [95.0, 3.0, 7.0], [475.0, 5.0])
    assert hot[0] == f"T_reactor_C 95: seen {low:.4g} to {high:.4g}"
    pressed = said(judged, [20.0, 3.4, 7.0], [475.0, 5.0])
    assert any(line.startswith("p_bar 3.4: ") and line.endswith(" in similar logged states") for line in pressed)
    (site,) = said(judged, [20.0, 3.0, 8.0], [475.0, 5.0])
    assert site == "site 8: seen 7 to 7"
    (pump,) = said(judged, [20.0, 3.0, 7.0], [900.0, 5.0])
    assert pump.startswith("pump_rpm 900: 42")
    (valve,) = said(judged, [20.0, 3.0, 7.0], [475.0, 6.0])
    assert valve == "valve 6: 5 to 5 in similar logged states"


def test_sensors_may_say_anything(judged: Calibrated) -> None:
    extreme = np.float32([[3e38, 3, 7], [20, -3e38, 7], [20, 3, 3e38]])
    scores = score(judged.support, extreme, np.zeros((3, 2), np.float32))
    assert np.isfinite(scores.total).all()
    assert (trust_of(judged.support, scores.total) < 0.001).all()


def test_every_flag_has_a_reason(judged: Calibrated) -> None:
    random = np.random.default_rng(3)
    observation = random.normal([20, 3, 7], [2, 0.5, 1e-7], (300, 3)).astype(np.float32)
    action = random.uniform(-1, 1, (300, 2)).astype(np.float32)
    scores = score(judged.support, observation, action)
    lines = reasons(judged.support, observation, action, scores, 0.01, (list("abc"), list("xy")), lambda a: a)
    np.testing.assert_array_equal([bool(each) for each in lines], trust_of(judged.support, scores.total) <= 0.01)


# --- policies -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def policy() -> LoadedPolicy:
    return load_policy(finished_run() / "policy")


def test_a_decision_is_an_action_with_its_trust(policy: LoadedPolicy) -> None:
    import jax

    decision = policy.decide(OBSERVATION, key=jax.random.key(3))
    np.testing.assert_array_equal(decision.action, policy(OBSERVATION, jax.random.key(3)))
    assert 0 < decision.trust <= 1
    assert decision[1:4] == policy.trust(OBSERVATION, decision.action)
    foreign = OBSERVATION.copy()
    foreign[4] = 100.0
    found = policy.decide(foreign)
    assert found.flagged
    assert found.reasons[0].startswith("observation[4] 100: seen ")
    batch = policy.decide(np.stack([OBSERVATION, foreign]))
    assert (batch.trust.shape, batch.flagged.tolist()[1]) == ((2,), True)
    assert batch.reasons[1][0] == found.reasons[0]
    assert policy.with_acting(candidates=4).decide(foreign).flagged


@pytest.mark.parametrize(
    ("action", "message"),
    [(np.zeros(2), r"shape \(2,\): 3 finite"), (np.full(3, np.nan), "3 finite"), (np.zeros((2, 3)), r"shape \(2, 3\)")],
)
def test_other_actions_are_refused(policy: LoadedPolicy, action: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        policy.trust(OBSERVATION, action)
    with pytest.raises(InputError, match=r"share 1\.0"):
        policy.decide(OBSERVATION, flagged_share=1.0)


def test_a_folder_without_trust_says_so(tmp_path: Path) -> None:
    fixtures = Path(__file__).parent / "fixtures" / "written_by_0_1_0" / "policies"
    old = load_policy(fixtures / "dtql")
    with pytest.raises(InputError, match=r"format \d\) carries no trust"):
        old.decide(np.zeros(old.spec.observation_size))


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished_run() / "policy", tmp_path / "policy"))
    path = folder / "trust.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"trust\.safetensors: truncated or altered"):
        load_policy(folder)
    path.unlink()
    with pytest.raises(InputError, match=r"trust\.safetensors: cannot be read"):
        load_policy(folder)
    stated = json.loads((folder / "policy.json").read_text())["trust"]
    assert (stated["pieces"], stated["stretch_rows"], stated["held_out"]) == (64, 2, False)


@pytest.mark.parametrize("density", [False, True])
def test_folders_hold_what_they_were_given(
    policy: LoadedPolicy, density: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A density where there is one; and one of format 4, which knew neither that nor relations, is still read."""
    for name, value in (("FEWEST_ROWS", 100), ("FEWEST_OF_DENSITY", 1), ("FEWEST_UPDATES", 1), ("HIDDEN_SIZES", (8,))):
        monkeypatch.setattr(behaviour, name, value if density else 10**9)
    log = {name: columns()[name] for name in ("observations", "actions", "rewards", "terminals")}
    data = Dataset.from_arrays(**log, timeouts=np.arange(len(log["rewards"])) % 5 == 4)
    decisions = sample_decisions(data)
    assert decisions is not None
    made = calibrate(decisions, 2)
    assert (made.support.action_scale is not None) == density
    if not density:
        made = made._replace(support=made.support._replace(relations=None, relation_limits=None))
    about = {"algorithm": policy.algorithm, "spec": policy.spec, "observations": data.observations[:8], "notes": {}}
    save_policy(tmp_path / "policy", policy.module, **about, trust=made)
    if not density:
        document = json.loads((tmp_path / "policy" / "policy.json").read_text())
        del document["trust"]["density"], document["trust"]["relations"], document["document_sha256"]
        document |= {"format_version": 4}
        document["document_sha256"] = document_hash(document)
        (tmp_path / "policy" / "policy.json").write_text(json.dumps(document))
    loaded = load_policy(tmp_path / "policy")
    actions = data.actions[:50]
    expected = trust_of(made.support, score(made.support, data.observations[:50], actions).total)
    np.testing.assert_array_equal(loaded.trust(data.observations[:50], actions).trust, expected)


def test_the_sample_is_of_what_is_trained_on() -> None:
    from tether.data import prepare

    data = reactor(60)
    prepared = prepare(data, holdout="0.5")
    assert isinstance(prepared.decisions, Decisions)
    assert prepared.decisions.held_out
    assert len(prepared.decisions.of(CALIBRATION).observation) == 30 * 50
