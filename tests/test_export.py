"""Policies that leave act as they do in JAX, or are not written; randomness is an input."""

import asyncio
import dataclasses
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contract.cases import CASES
from make_data import copy_run

import tether
from tether import InputError, cli, load_policy
from tether.algorithms.registry import ALGORITHMS, make_algorithm
from tether.data import Normaliser
from tether.data.decisions import CALIBRATION, FITTING, SCALING, Decisions
from tether.data.framing import Framing
from tether.data.schema import ActionBox, Schema, layout_of
from tether.evaluation import rollout
from tether.export import folder as export_folder
from tether.export.batched import batched
from tether.export.folder import Exported, write_export
from tether.export.graph import Graph
from tether.export.onnx_file import onnx_model
from tether.export.program import program
from tether.export.verify import check, golden_sample, sample_inputs
from tether.networks.layers import orthogonal
from tether.networks.policies import FreeGaussianActor
from tether.ope import importance_ratios
from tether.policies.density import log_density, with_noise
from tether.policies.deployed import DeployedPolicy, act_each, deploy
from tether.policies.folder import save_policy
from tether.policies.framed import framed_policy
from tether.policies.loaded import LoadedPolicy
from tether.trust import calibrate
from tether.types import Array, PRNGKey, Spec

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
import tether_runtime  # noqa: E402
from tether_runtime.fallback import Guard  # noqa: E402
from tether_runtime.program import OPERATIONS, Program  # noqa: E402

ROOT = Path(__file__).parents[1]
SPEC = Spec(5, 3)
SCHEMA = Schema(
    layout_of({"height": 1, "joint": 4}),
    layout_of({"hip": 1, "knee": 2}),
    ActionBox((-2.0, -1.0, 0.0), (2.0, 1.0, 9.0)),
)
OBSERVATIONS = np.random.default_rng(0).normal(0.5, 2.0, (64, 5)).astype(np.float32)
# One for each kind of randomness and structure: none, candidates and a softmax, a chain, a memory, a mean of the best.
KINDS = ("iql", "dtql", "dac", "dt", "sfbc")
LAWS = {"iql": [], "dtql": ["normal", "gumbel"], "dac": ["normal", "normal"], "dt": [], "sfbc": ["normal", "gumbel"]}


def deployed(name: str, variant: str | None = None) -> tuple[Any, DeployedPolicy]:
    """An algorithm with small networks and its policy, untrained, with a normaliser and ranges of its own."""
    case = CASES[name]
    changes = case.variants[variant or next(iter(case.variants))]
    algorithm = make_algorithm(ALGORITHMS[name], {**case.sizes, **changes})
    normaliser = Normaliser(np.full(5, 0.5, np.float32), np.full(5, 2.0, np.float32))
    policy = algorithm.policy(jax.jit(algorithm.init, static_argnums=0)(SPEC, jax.random.key(1)))
    return algorithm, deploy(policy, SPEC, normaliser, SCHEMA)


def saved(folder: Path, name: str, variant: str | None = None) -> LoadedPolicy:
    algorithm, policy = deployed(name, variant)
    given = {"algorithm": algorithm, "spec": SPEC, "observations": OBSERVATIONS, "notes": {}, "schema": SCHEMA}
    save_policy(folder, policy, **given)
    return load_policy(folder)


def export(place: Path, name: str, **how: Any) -> tuple[LoadedPolicy, Exported]:
    policy = saved(place / "policy", name)
    return policy, write_export(policy, place / "export", **{"rows": 64, **how})


@pytest.fixture(scope="module")
def dtql(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy with 16 candidates, and exports of it: `numpy`, `onnx` with 16, 4 and 2 candidates."""
    place = tmp_path_factory.mktemp("dtql")
    policy = saved(place / "policy", "dtql")
    write_export(policy, place / "numpy", format="numpy", rows=64, units={"height": "m"})
    write_export(policy, place / "onnx", candidates=(16, 4, 2), rows=64)
    return place


@pytest.mark.parametrize("name", KINDS)
def test_given_its_noise_a_graph_acts_as_the_policy_does_with_the_key(name: str):
    _, policy = deployed(name)
    graph = Graph(policy)
    assert [draw.law for draw in graph.draws] == LAWS[name]
    arguments = jnp.asarray(OBSERVATIONS[0]), policy.initial_memory(), jnp.float32(0.3)
    key = jax.random.key(7)
    wanted = jax.jit(lambda o, m, r: policy.step(o, key, m, r))(*arguments)
    found = jax.jit(lambda o, m, r: graph.act(o, graph.noise(key), m, r))(*arguments)
    for one, other in zip(jax.tree.leaves(wanted), jax.tree.leaves(found), strict=True):
        assert one.dtype == other.dtype
        assert one == pytest.approx(np.asarray(other), abs=2e-6)


def test_a_graph_gives_the_whole_chunk_in_the_robot_s_units():
    """Decided at every step, also where an earlier chunk is being carried out."""
    framing = Framing(chunk=3, execute=2)
    algorithm = make_algorithm(ALGORITHMS["dtql"], {**CASES["dtql"].sizes})
    policy = algorithm.policy(jax.jit(algorithm.init, static_argnums=0)(framing.decision(SPEC), jax.random.key(1)))
    normaliser = Normaliser(np.full(5, 0.5, np.float32), np.full(5, 2.0, np.float32))
    module = deploy(framed_policy(policy, framing, SPEC), SPEC, normaliser, SCHEMA)
    graph, memory = Graph(module), module.initial_memory()
    assert graph.extras == ("chunk",)
    key, reward = jax.random.key(7), jnp.float32(0.0)

    @jax.jit
    def both(seen: Array, memory: Any) -> tuple[Any, ...]:
        exported = graph.act_with_extras(seen, graph.noise(key), memory, reward)
        chunk = jax.vmap(module.in_units)(module.policy.decide(module.normalise(seen), key, memory))
        return exported, module.step(seen, key, memory, reward), chunk

    first = []
    for step, row in enumerate(jnp.asarray(OBSERVATIONS[:3])):
        (action, after, extras), (wanted, memory), chunk = both(row, memory)
        assert action == pytest.approx(np.asarray(wanted), abs=2e-6)
        assert jax.tree.leaves(after)[0] == pytest.approx(np.asarray(jax.tree.leaves(memory)[0]), abs=2e-6)
        assert extras["chunk"] == pytest.approx(np.asarray(chunk), abs=2e-6)
        first.append(chunk)
        assert action == pytest.approx(np.asarray(first[0][1] if step == 1 else chunk[0]), abs=2e-6)


@pytest.mark.parametrize("name", ["iql", "cql", "onestep"])
def test_a_noisy_actor_says_how_likely_its_action_is(name: str):
    _, module = deployed(name)
    noisy, is_noisy = with_noise(module)
    graph = Graph(noisy)
    assert is_noisy
    assert graph.extras == ("log_density",)
    assert Graph(module).extras == ()
    keys = jax.random.split(jax.random.key(0), 16)
    act = jax.jit(jax.vmap(lambda row, key: graph.act_with_extras(row, graph.noise(key))))
    actions, _, extras = act(OBSERVATIONS[:16], keys)
    assert actions == pytest.approx(np.asarray(act_each(noisy, OBSERVATIONS[:16], keys)), abs=5e-6)
    actions = np.asarray(actions)
    clipped = np.any((actions <= module.action_low) | (actions >= module.action_high), axis=1)
    said, found = np.asarray(extras["log_density"]), log_density(module, OBSERVATIONS[:16], actions)
    assert said[~clipped] == pytest.approx(found[~clipped], abs=1e-2)  # tanh is inverted where it is flat
    ratio = importance_ratios(module, OBSERVATIONS[:16][~clipped], actions[~clipped], said[~clipped])
    assert ratio == pytest.approx(1.0, abs=1e-2)
    far = 3.0 * OBSERVATIONS[:16]  # there tanh presses actions against the box; a policy is as likely as itself
    pressed, _, extras = act(far, keys)
    said = np.asarray(extras["log_density"])
    assert importance_ratios(module, far, np.asarray(pressed), said) == pytest.approx(1.0, abs=0.05)
    with pytest.raises(InputError, match="2 of 2 rows have none"):
        importance_ratios(module, OBSERVATIONS[:2], actions[:2], np.full(2, np.nan))


def test_a_clipped_normal_s_density_adds_up_to_one():
    """Inside of the box by quadrature, at its ends by what is clipped to them."""
    actor = FreeGaussianActor(jax.random.key(0), 2, 1, (4,), 1.0, initialiser=orthogonal(1.0))
    inside = np.linspace(-1.0, 1.0, 2001, dtype=np.float32)[1:-1, None]
    of = jax.jit(jax.vmap(lambda action: actor.log_density_of(jnp.ones(2), action)))
    total = np.exp(of(inside)).sum() * 0.001 + np.exp(of(jnp.asarray([[-1.0], [1.0]]))).sum()
    assert total == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"rows": 0}, "decisions 0: at least 1"),
        ({"format": "tflite"}, "format 'tflite': there are onnx, numpy, stablehlo"),
        ({"dtype": "float64"}, "dtype 'float64': there are float32, float16"),
        ({"candidates": ["4"]}, "candidates '4': whole numbers"),
        ({"dtype": "float16", "noise": True}, "dtype float16: with noise the density"),
    ],
)
def test_what_cannot_be_exported_is_refused(tmp_path: Path, how: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        export_folder._check_asked(
            tmp_path / "export",
            **{"format": "onnx", "dtype": "float32", "candidates": (), "rows": 1, "noise": False, **how},
        )


def test_of_a_policy_without_a_density_none_is_exported(tmp_path: Path):
    for name in ("dac", "td3-bc"):
        _, module = deployed(name)
        with pytest.raises(InputError, match="no density that is known"):
            log_density(module, OBSERVATIONS[:1], np.zeros((1, 3), np.float32))
    policy = saved(tmp_path / "policy", "td3-bc")
    with pytest.raises(InputError, match=r"noise: td3-bc has no Gaussian actor"):
        write_export(policy, tmp_path / "export", noise=True)


def test_the_noise_is_what_the_policy_draws():
    """DTQL: candidates from one half of the key, the choice from the other."""
    _, policy = deployed("dtql")
    candidates, choice = Graph(policy).noise(jax.random.key(3))
    draw_key, choose_key = jax.random.split(jax.random.key(3))
    assert jnp.array_equal(choice, jax.random.gumbel(choose_key, (16,), jnp.float32))
    assert candidates.shape == (16, 3)
    assert not jnp.array_equal(candidates, Graph(policy).noise(jax.random.key(4))[0])
    assert jnp.array_equal(candidates, jax.random.normal(draw_key, (16, 3), jnp.float32))


def test_no_loop_call_or_key_is_left_in_a_graph():
    for name in ("dac", "dtql"):
        graph = batched(Graph(deployed(name)[1]))
        written = program(graph.function, graph.inputs.values())
        kinds = {step[0] for step in written.document["steps"]}
        assert kinds <= set(OPERATIONS)
        assert not any(array.dtype.kind == "f" and array.dtype != np.float32 for array in written.constants.values())


def test_a_batch_takes_a_shortcut_where_it_is_right_for_all(tmp_path: Path):
    """DTQL with many candidates looks at a short list first. With one large Gumbel number the list has the winner; with
    none of note all candidates must be looked at, by one decision of the batch and so by all."""
    algorithm = make_algorithm(ALGORITHMS["dtql"], {**CASES["dtql"].sizes, "candidates": 300})
    policy = algorithm.policy(jax.jit(algorithm.init, static_argnums=0)(SPEC, jax.random.key(1)))
    module = deploy(policy, SPEC, Normaliser(np.zeros(5, np.float32), np.ones(5, np.float32)), SCHEMA)
    save_policy(tmp_path / "p", module, algorithm=algorithm, spec=SPEC, observations=OBSERVATIONS, notes={})
    graph, seen = Graph(module), OBSERVATIONS[:4]
    one = batched(graph)
    steps = program(one.function, one.inputs.values()).document["steps"]
    (choice,) = [how["branches"] for name, *_, how in steps if name == "cond"]
    exact, short = [sum(name == "dot_general" for name, *_ in branch["steps"]) for branch in choice]
    assert (exact > 0, short) == (True, 0)
    normal, gumbel = jax.vmap(graph.noise)(jax.random.split(jax.random.key(0), 4))
    clear = jnp.zeros_like(gumbel).at[jnp.arange(4), jnp.array([299, 0, 7, 150])].set(50.0)
    unclear = clear.at[2].set(0.0)
    for name in ("numpy", "onnx"):
        write_export(load_policy(tmp_path / "p"), tmp_path / name, format=name, rows=8)
        exported = tether_runtime.load(tmp_path / name).graph(0)
        for noise in (clear, unclear):
            wanted = jnp.stack(
                [graph.act(*row)[0] for row in zip(jnp.asarray(seen), zip(normal, noise, strict=True), strict=True)]
            )
            (found,) = exported.run([seen, np.asarray(normal), np.asarray(noise)])
            assert found == pytest.approx(np.asarray(wanted), abs=2e-5), name


class Shuffled:
    """A policy that draws by what no runtime knows."""

    def __call__(self, observation: Array, key: PRNGKey) -> Array:
        return jax.random.truncated_normal(key, -1.0, 1.0, (3,)) + observation[:3]


class Wide:
    """One that draws between bounds of its own."""

    def __call__(self, observation: Array, key: PRNGKey) -> Array:
        return jax.random.uniform(key, (3,), minval=observation[0], maxval=observation[0] + 1.0)


@pytest.mark.parametrize("kind", [Shuffled, Wide])
def test_a_draw_that_export_does_not_know_is_named(kind: Any):
    _, policy = deployed("iql")
    object.__setattr__(policy, "policy", kind())
    with pytest.raises(InputError, match=rf"{kind.__name__}: it draws .* export knows jax.random.normal, gumbel"):
        Graph(policy)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: jax.lax.cumsum(x, axis=0, reverse=True), "cumulative sum from the end"),
        (lambda x: jnp.take(x, x[0].astype(int)), r"fills in .* say mode='clip'"),
        (lambda x: x.at[x[0].astype(int)].set(1.0, mode="clip"), "index is clipped; say mode='drop'"),
        (lambda x: jax.lax.round(x, jax.lax.RoundingMethod.AWAY_FROM_ZERO), "halves away from 0"),
    ],
)
def test_what_would_be_written_as_something_else_is_refused(function: Any, message: str):
    with pytest.raises(InputError, match=message):
        program(jax.vmap(function), [jax.ShapeDtypeStruct((5,), jnp.float32)])


def test_writing_out_of_range_and_bits_are_jax_s():
    """Nothing is written there, where clipping would; and 6 & 3 is 2, which is no truth."""
    seen = np.float32([[0, 6, -7, 1, 2], [5, 6, 7, 1, 2], [4, 1, 2, 3, 3]])
    shape = [jax.ShapeDtypeStruct((5,), jnp.float32)]

    def write(x: Array) -> Array:
        return x.at[x[0].astype(int)].set(9.0)

    def bits(x: Array) -> Array:
        whole = x.astype(jnp.int32)
        return ((whole & 3) ^ ~(whole | 8)).astype(jnp.float32)

    for function in (write, bits):
        document, values, _ = written = program(jax.vmap(function), shape)
        wanted = np.asarray(jax.vmap(function)(seen))
        (found,) = Program(document, {int(name): array for name, array in values.items()}, Path("own")).run([seen])
        assert np.array_equal(found, wanted)
        if function is bits:
            with pytest.raises(InputError, match="no rule for bits"):
                onnx_model(written, ["observation"], ["action"], {"algorithm": "own"})
        else:
            model = onnx_model(written, ["observation"], ["action"], {"algorithm": "own"}).SerializeToString()
            session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
            assert np.array_equal(session.run(None, {"observation": seen})[0], wanted)


@pytest.mark.parametrize("format", ["numpy", "onnx"])
def test_an_exported_policy_acts_as_in_jax(dtql: Path, format: str):
    there, here = tether_runtime.load(dtql / format), load_policy(dtql / "policy")
    noise = jax.vmap(Graph(here.module).noise)(jax.vmap(jax.random.key)(np.arange(64)))
    wanted = [here(row, jax.random.key(seed)) for seed, row in enumerate(OBSERVATIONS)]
    found = there(OBSERVATIONS, noise=[np.asarray(array) for array in noise])
    assert np.abs(found - wanted).max() < 1e-5
    one = there(OBSERVATIONS[5], noise=[np.asarray(array[5]) for array in noise])
    assert one == pytest.approx(found[5], abs=1e-6)
    assert there.document["verified"][0]["rows"] == 64


def test_a_seed_decides_an_action_and_the_stream_goes_on(dtql: Path):
    onnx, numpy = (tether_runtime.load(dtql / format, seed=1) for format in ("onnx", "numpy"))
    first, second = onnx(OBSERVATIONS[0]), onnx(OBSERVATIONS[0])
    assert not np.array_equal(first, second)
    onnx.reseed(1)
    assert np.array_equal(onnx(OBSERVATIONS[0]), first)
    assert np.array_equal(onnx(OBSERVATIONS[0], seed=9), onnx(OBSERVATIONS[0], seed=9))
    assert numpy(OBSERVATIONS[0], seed=9) == pytest.approx(onnx(OBSERVATIONS[0], seed=9), abs=1e-5)


def test_columns_have_names_and_units(dtql: Path):
    policy = tether_runtime.load(dtql / "numpy")
    by_name = {"height": OBSERVATIONS[0, 0], "joint": OBSERVATIONS[0, 1:]}
    assert np.array_equal(policy(by_name, seed=0), policy(OBSERVATIONS[0], seed=0))
    assert policy.document["observation"]["units"] == {"height": "m"}
    with pytest.raises(tether_runtime.InputError, match="no 'height'"):
        policy({"joint": OBSERVATIONS[0, 1:]})


def test_candidates_fit_a_budget(dtql: Path, monkeypatch: pytest.MonkeyPatch):
    policy = tether_runtime.load(dtql / "onnx")
    assert policy.candidates == [16, 4, 2]
    assert policy(OBSERVATIONS[0], candidates=2, seed=0).shape == (3,)
    assert set(policy.milliseconds()) == {16, 4, 2}
    used: list[int] = []
    act = policy._act
    monkeypatch.setattr(policy, "_milliseconds", {16: 9.0, 4: 3.0, 2: 1.0})
    monkeypatch.setattr(
        policy, "_act", lambda number, *rest: used.append(policy.candidates[number]) or act(number, *rest)
    )
    for budget in (100.0, 9.0, 5.0, 0.01, None):
        policy(OBSERVATIONS[0], budget_ms=budget)
    assert used == [16, 16, 4, 2, 16]
    with pytest.raises(tether_runtime.InputError, match=r"candidates 3: exported with \[16, 4, 2\]"):
        policy(OBSERVATIONS[0], candidates=3)


def test_a_memory_goes_in_and_out(tmp_path: Path):
    here, exported = export(tmp_path, "dt", format="onnx")
    there = tether_runtime.load(exported.folder)
    assert there.has_memory
    ours, theirs, rewards = here.initial_memory(), there.initial_memory(), np.linspace(0, 1, 9, dtype=np.float32)
    for row, reward in zip(OBSERVATIONS, rewards, strict=False):  # three times the context of 3
        wanted, ours = here.step(row, ours, reward)
        found, theirs = there.step(row, theirs, reward)
        assert found == pytest.approx(wanted, abs=2e-5)
    with pytest.raises(tether_runtime.InputError, match="use initial_memory"):
        there(OBSERVATIONS[0])


def test_half_precision(tmp_path: Path):
    _, single = export(tmp_path / "single", "iql")
    _, half = export(tmp_path / "half", "iql", dtype="float16")
    assert 1e-5 < half.agreements[0].largest < 2e-2
    actions = [tether_runtime.load(each.folder)(OBSERVATIONS) for each in (single, half)]
    assert actions[0].dtype == actions[1].dtype == np.float32
    assert np.abs((actions[0] - actions[1]) / [2.0, 1.0, 4.5]).max() < 2e-2
    with pytest.raises(InputError, match="float16: format numpy computes in float32"):
        export(tmp_path / "numpy", "iql", format="numpy", dtype="float16")


def test_stablehlo_for_any_batch(tmp_path: Path):
    policy, exported = export(tmp_path, "iql", format="stablehlo")
    loaded = jax.export.deserialize(bytearray((exported.folder / "policy.jax").read_bytes()))
    assert np.asarray(loaded.call(OBSERVATIONS[:7])[0]) == pytest.approx(policy(OBSERVATIONS[:7]), abs=1e-6)
    assert (exported.folder / "policy.mlirbc").stat().st_size
    with pytest.raises(tether_runtime.InputError, match="format 'stablehlo'; this package runs onnx, numpy"):
        tether_runtime.load(exported.folder)


def test_what_does_not_act_as_in_jax_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def blunder(*arguments: Any) -> Any:
        written = program(*arguments)
        name, array = max(written.constants.items(), key=lambda item: item[1].size)
        return written._replace(constants={**written.constants, name: array + 0.001})

    monkeypatch.setattr(export_folder, "program", blunder)
    with pytest.raises(InputError, match=r"golden pairs|does not act as JAX does"):
        export(tmp_path, "iql")
    monkeypatch.setattr("tether_runtime.policy._verify_golden", lambda *_: None)
    with pytest.raises(InputError, match=r"does not act as JAX does: \d+ of 64 decisions differ"):
        export(tmp_path, "iql")
    assert not (tmp_path / "export").exists()


class Touchy(eqx.Module):
    """A policy of two actions, whose choice hangs on the observation's last bits in a few rows of a hundred."""

    def __call__(self, observation: Array, key: PRNGKey) -> Array:
        return jnp.where(jnp.sin(1e5 * observation[0]) > 0, 0.5, -0.5) * jnp.ones(6)


def test_each_decision_with_a_memory_is_compared_for_itself():
    """From JAX's own memory: what another rounding decides is told from what is wrong, as without one."""
    plain = Normaliser(np.zeros(5, np.float32), np.ones(5, np.float32))
    module = deploy(framed_policy(Touchy(), Framing(chunk=2, execute=2), SPEC), SPEC, plain, SCHEMA)
    graph = Graph(module)
    document = {"golden": {"observations": OBSERVATIONS[:4].tolist()}, "spec": SPEC._asdict()}
    sample = sample_inputs(graph, LoadedPolicy(module, document, None), 400)
    function = jax.jit(batched(graph).function)

    def run(inputs: list[Any]) -> list[np.ndarray]:
        return [*map(np.array, function(inputs[0] * np.float32(1 + 1e-6), *inputs[1:]))]

    def damaged(output: int, change: float) -> Any:
        def run_wrong(inputs: list[Any]) -> list[np.ndarray]:
            found = run(inputs)
            found[output][7:] += np.asarray(change, found[output].dtype)
            return found

        return run_wrong

    found = check(run, sample, module, "float32", graph.extras)
    assert found.rows == 400
    assert found.ill_conditioned > 0
    assert found.largest < 1e-5
    for output, what, change in ((1, "memory", 0.01), (2, "memory", 1), (3, "chunk", 0.01), (3, "chunk", np.nan)):
        with pytest.raises(InputError, match=rf"3\d\d of 400 decisions differ in [a-z, ]*{what}[a-z, ]*: actions"):
            check(damaged(output, change), sample, module, "float32", graph.extras)
    golden = golden_sample(sample, module, "float32")
    assert 1 <= len(golden["action"]) == len(golden["reward"]) <= 40


def test_a_density_that_is_not_jax_s_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    policy = saved(tmp_path / "policy", "iql")
    told = tether_runtime.graphs.Graph.run_with_extras
    assert write_export(policy, tmp_path / "right", format="numpy", noise=True, rows=64).agreements[0].rows == 64

    def wrong(own: Any, inputs: list[Any]) -> Any:
        outputs, extras = told(own, inputs)
        return outputs, {name: array + np.float32(0.01) for name, array in extras.items()}

    monkeypatch.setattr(tether_runtime.graphs.Graph, "run_with_extras", wrong)
    with pytest.raises(InputError, match="64 of 64 decisions differ in log_density: actions by up to"):
        write_export(policy, tmp_path / "wrong", format="numpy", noise=True, rows=64)


@pytest.mark.parametrize("name", ["policy.json", "policy.npz", "policy.golden.npz", "export.json"])
def test_an_altered_file_is_refused(dtql: Path, tmp_path: Path, name: str):
    for file in (dtql / "numpy").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    data = bytearray((tmp_path / name).read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / name).write_bytes(data)
    with pytest.raises(tether_runtime.InputError, match="altered"):
        tether_runtime.load(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(tether_runtime.InputError, match="cannot be read"):
        tether_runtime.load(tmp_path)


def test_another_policy_s_golden_pairs_are_refused(dtql: Path, tmp_path: Path):
    """Hashes right, numbers wrong: as on a processor that computes otherwise."""
    for file in (dtql / "numpy").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    with np.load(tmp_path / "policy.golden.npz") as arrays:
        golden = dict(arrays)
    golden["action"] += 0.01
    files = {name: (tmp_path / name).read_bytes() for name in ("policy.json", "policy.npz")}
    files["policy.golden.npz"] = export_folder._npz(golden)
    document = json.loads((tmp_path / "export.json").read_text())
    document.pop("document_sha256")
    for name, data in export_folder._complete(document, files).items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(
        tether_runtime.InputError, match=r"does not reproduce its golden pairs: action \d differs by 0.01"
    ):
        tether_runtime.load(tmp_path)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros(4), r"shape \(4,\): this policy takes \(5,\) or \(batch, 5\)"),
        (np.zeros((0, 5)), "shape"),
        (np.full(5, np.nan), "not finite"),
        (np.full(5, 1e300), "not finite"),
        ("12345", "no array of numbers|shape"),
        ({"height": 1.0}, "no 'joint'"),
    ],
)
def test_bad_observations_are_refused(dtql: Path, given: Any, message: str):
    with pytest.raises(tether_runtime.InputError, match=message):
        tether_runtime.load(dtql / "numpy")(given)


def test_the_command_line(dtql: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    def run(*words: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as end:
            cli.main(["export", str(dtql / "policy"), *words])
        captured = capsys.readouterr()
        return int(end.value.code or 0), captured.out + captured.err

    code, text = run("--format", "numpy", "--check-decisions", "32", "--out", str(tmp_path / "out"))
    assert code == 0
    assert "16 candidates: 32 decisions as in JAX" in text
    code, text = run("--format", "numpy", "--check-decisions", "32", "--out", str(tmp_path))
    assert code == 2
    assert "exists and holds no export.json" in text
    code, text = run("--unit", "elbow=rad", "--out", str(tmp_path / "out"))
    assert code == 2
    assert "no such column" in text


@pytest.mark.long
def test_what_was_exported_plays_the_same_episodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Ten steps of Hopper: the same starts, the same noise, the same returns."""
    make = rollout.make_environment
    monkeypatch.setattr(rollout, "make_environment", lambda task: make(dataclasses.replace(task, horizon=10)))
    run = copy_run(tmp_path / "run")
    wanted = tether.evaluate(run, episodes=2, quiet=True)[0]
    found = tether.evaluate(run, episodes=2, quiet=True, runtime="onnx")[0]
    assert found.returns == pytest.approx(wanted.returns, abs=1e-4)
    assert np.array_equal(found.lengths, wanted.lengths)
    (kept,) = run.glob("evaluate-*-2-onnx.json")
    assert json.loads(kept.read_text())["runtime"] == "onnx"


def c_headers() -> Path | None:
    """Where onnxruntime_c_api.h is; wheels of ONNX Runtime have the library without it."""
    places = [os.environ.get("ONNXRUNTIME_INCLUDE"), "/usr/include/onnxruntime", "/usr/local/include/onnxruntime"]
    return next((Path(place) for place in places if place and (Path(place) / "onnxruntime_c_api.h").is_file()), None)


@pytest.mark.skipif(c_headers() is None or shutil.which("cc") is None, reason="no C compiler, or no header of ORT's")
def test_the_c_example_acts(dtql: Path, tmp_path: Path):
    """Its random numbers are its own, so a policy without any is compared number by number."""
    _, exported = export(tmp_path, "iql")
    (library,) = (Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*")
    source, act = ROOT / "runtime" / "examples" / "c" / "act.c", tmp_path / "act"
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):  # which the wheel has no need of
        (tmp_path / name).symlink_to(library)
    link = [f"-L{tmp_path}", "-lonnxruntime", f"-Wl,-rpath,{tmp_path}", "-lm"]
    warnings = ["-std=c11", "-Wall", "-Wextra", "-Werror"]
    subprocess.run(["cc", *warnings, "-O2", "-o", act, source, f"-I{c_headers()}", *link], check=True)
    lines = "\n".join(" ".join(map(str, row.tolist())) for row in OBSERVATIONS[:8])

    def run(model: Path, *words: str) -> np.ndarray:
        done = subprocess.run([act, model, *words], input=lines, capture_output=True, text=True, check=True)
        return np.array([line.split() for line in done.stdout.splitlines()], np.float32)

    wanted = tether_runtime.load(exported.folder)(OBSERVATIONS[:8])
    assert run(exported.folder / "policy.onnx") == pytest.approx(wanted, abs=1e-5)
    for wrong, message in (("1 2 3 4", "5 numbers"), ("1 2 3 4 5 6", "there is more"), ("1 2 3 4 nan", "not finite")):
        words = [act, exported.folder / "policy.onnx"]
        done = subprocess.run(words, input=f"{wrong}\n1 2 3 4 5\n", capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (1, "")
        assert message in done.stderr
    one, other = (run(dtql / "onnx" / "policy.onnx", seed) for seed in ("1", "2"))
    assert one.shape == (8, 3)
    assert np.all((np.abs(one) <= [2.0, 1.0, 9.0]) & (one != other))


@pytest.mark.long
@pytest.mark.parametrize("name", CASES)
def test_every_algorithm_is_exported(name: str, tmp_path: Path):
    """A thousand decisions within the stated tolerance of JAX, in every format."""
    for variant in CASES[name].variants:
        policy = saved(tmp_path / variant / "policy", name, variant)
        for format, dtype in (("onnx", "float32"), ("onnx", "float16"), ("numpy", "float32"), ("stablehlo", "float32")):
            exported = write_export(policy, tmp_path / variant / f"{format}-{dtype}", format=format, dtype=dtype)
            assert exported.agreements[0].rows >= 1000


# --- trust ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trusted(tmp_path_factory: pytest.TempPathFactory) -> tuple[LoadedPolicy, Path]:
    """A policy that carries trust, and its export."""
    place, random = tmp_path_factory.mktemp("trusted"), np.random.default_rng(2)
    observation = random.normal(0.5, 2.0, (900, 5)).astype(np.float32)
    action = np.tanh(observation[:, :3] + 0.1 * random.normal(size=(900, 3))).astype(np.float32)
    part = np.repeat([FITTING, SCALING, CALIBRATION], [500, 100, 300])
    decisions = Decisions(observation, action, part, np.arange(900) // 10, None, False)
    algorithm, policy = deployed("iql")
    given = {"algorithm": algorithm, "spec": SPEC, "observations": OBSERVATIONS, "notes": {}, "schema": SCHEMA}
    save_policy(place / "policy", policy, **given, trust=calibrate(decisions))
    loaded = load_policy(place / "policy")
    write_export(loaded, place / "export", format="numpy", rows=16)
    return loaded, place / "export"


FOREIGN = {"height": 500.0, "joint": [0.0, 0.0, 0.0, 0.0]}


def test_trust_travels_along(trusted: tuple[LoadedPolicy, Path], tmp_path: Path) -> None:
    loaded, folder = trusted
    runtime = tether_runtime.load(folder)
    actions = SCHEMA.box.from_unit(np.random.default_rng(3).uniform(-1, 1, (64, 3)))
    ours, theirs = loaded.trust(OBSERVATIONS, actions), runtime.trust(OBSERVATIONS, actions)
    np.testing.assert_array_equal(ours.trust, theirs.trust)
    assert ours.reasons == theirs.reasons
    assert ours.flagged.any()
    decision, seen = loaded.decide(FOREIGN), runtime.decide(FOREIGN)
    np.testing.assert_allclose(decision.action, seen.action, rtol=1e-4)
    assert (decision.flagged, seen.flagged) == (True, True)
    assert decision.reasons[0] == seen.reasons[0]
    assert seen.reasons[0].startswith("height 500: seen ")
    damaged = Path(shutil.copytree(folder, tmp_path / "damaged"))
    (damaged / "trust.npz").write_bytes(b"")
    with pytest.raises(tether_runtime.InputError, match=r"trust\.npz: truncated or altered"):
        tether_runtime.load(damaged)


def test_what_judges_is_the_same_in_both_distributions() -> None:
    texts = [(ROOT / place / "support.py").read_text() for place in ("src/tether/trust", "runtime/src/tether_runtime")]
    assert texts[0] == texts[1]


def test_an_export_without_trust_says_so(dtql: Path) -> None:
    runtime = tether_runtime.load(dtql / "numpy")
    assert not runtime.has_trust
    with pytest.raises(tether_runtime.InputError, match="carries no trust"):
        runtime.decide(np.zeros(5))
    with pytest.raises(tether_runtime.InputError, match="carries trust"):
        Guard(runtime, {"foreign": "safe"}, safe_action=[0.0, 0.0, 4.0])


def test_foreign_decisions_fall_back(trusted: tuple[LoadedPolicy, Path]) -> None:
    runtime = tether_runtime.load(trusted[1])
    usual = Guard(runtime, flagged_share=0.003).act(np.full(5, 0.5))  # less than 1 / 301, the least there is
    assert (usual.trouble, usual.fallback) == (None, None)
    assert usual.trust == runtime.trust(np.full(5, 0.5), usual.action).trust
    named = Guard(runtime).act(FOREIGN)
    assert (named.trouble, named.fallback) == ("foreign", None)
    assert "height 500: seen " in named.message
    safe = Guard(runtime, {"foreign": "safe"}, safe_action=[0.0, 0.0, 4.0]).act(FOREIGN)
    assert (safe.trouble, safe.fallback, safe.trust) == ("foreign", "safe", named.trust)
    np.testing.assert_array_equal(safe.action, [0.0, 0.0, 4.0])
    assert Guard(runtime, flagged_share=None).act(FOREIGN).trust is None
    with pytest.raises(tether_runtime.InputError, match="flagged share 2"):
        Guard(runtime, flagged_share=2.0)


def test_a_server_tells_trust(trusted: tuple[LoadedPolicy, Path]) -> None:
    pytest.importorskip("starlette")
    from tether_runtime.serve.command import Options, make_server

    given = {"on": ("foreign=safe",), "safe_action": (0.0, 0.0, 4.0)}
    server = make_server(Options(policies=(f"arm={trusted[1]}",), **given), several_processes=False)

    async def ask() -> list[dict[str, Any]]:
        served = server.store.get("arm")
        try:
            return [await server._answer(served, {"observation": seen}, None) for seen in ([0.5] * 5, FOREIGN)]
        finally:
            server.batcher.close()

    usual, foreign = asyncio.run(ask())
    assert 0 < usual["trust"] <= 1
    assert (foreign["trouble"], foreign["fallback"]) == ("foreign", "safe")
    assert foreign["action"] == [0.0, 0.0, 4.0]
    assert foreign["trust"] <= 0.01
    metrics = server.monitor.text().decode()
    assert 'tether_fallbacks_total{policy="arm",why="foreign"}' in metrics
    assert 'tether_decision_trust_count{policy="arm"} 2.0' in metrics
