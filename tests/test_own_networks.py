"""Critics and actors are made of what the user names or gives, and a run knows them again without an import."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from make_data import data_file

import tether
from tether.algorithms import ALGORITHMS, BC, DTQL, IQL
from tether.algorithms.registry import hyperparameters_of, make_algorithm
from tether.environments import get_task
from tether.errors import InputError
from tether.evaluation import worker
from tether.evaluation.pool import WorkerPool, can_be_made_elsewhere
from tether.machine import programs
from tether.machine.registry import registry
from tether.networks import MLP, QEnsemble, ResidualMLP, find_network, make_network, mish, orthogonal
from tether.policies.folder import load_policy
from tether.types import Array, Spec

SPEC = Spec(3, 2, 0.5)
HOW: dict[str, Any] = {"activation": jax.nn.relu}


class Sines(eqx.Module):
    """sin(W x), summed with weights: a network that tether does not have."""

    weight: Array
    last: Array

    def __call__(self, x: Array) -> Array:
        return self.last @ jnp.sin(self.weight @ x)


def sines(key: Array, in_sizes: Any, hidden_sizes: Any, out_size: int, **how: Any) -> Sines:
    first, second = jax.random.split(key)
    width = hidden_sizes[-1]
    return Sines(jax.random.normal(first, (width, sum(in_sizes))), jax.random.normal(second, (out_size, width)))


def bits(tree: Any) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def key(seed: int = 0) -> Array:
    return jax.random.key(seed)


# --- names ---


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("mlp", {}),
        ("layernorm", {"layer_norm": True}),
        ("gelu+layernorm", {"layer_norm": True, "activation": jax.nn.gelu}),
        ("no-layernorm+mish", {"layer_norm": False, "activation": mish}),
        ("16x4+tanh", {"hidden_sizes": (16, 4), "activation": jnp.tanh}),
    ],
)
def test_a_name_is_an_mlp_with_these_arguments(name: str, same: dict[str, Any]) -> None:
    made = make_network(name, key(), (3, 2), (8, 8), 1, initialiser=orthogonal(2.0), layer_norm="layer" in name, **HOW)
    how = {"initialiser": orthogonal(2.0), "hidden_sizes": (8, 8)} | HOW | same
    by_hand = MLP(key(), 5, out_size=1, **how)
    assert isinstance(made, MLP)
    assert bits(made) == bits(by_hand)
    x = jnp.arange(5.0, dtype=jnp.float32)
    assert bits(made(x)) == bits(by_hand(x))


def test_a_residual_network_is_its_equation() -> None:
    made = make_network("residual+tanh", key(), (3,), (4, 4, 6), 2, layer_norm=False, **HOW)
    assert isinstance(made, ResidualMLP)

    def affine(layer: Any, x: np.ndarray) -> np.ndarray:
        return np.asarray(layer.weight, np.float64) @ x + np.asarray(layer.bias, np.float64)

    def norm(x: np.ndarray) -> np.ndarray:
        return (x - x.mean()) / np.sqrt(x.var() + 1e-5)

    x = np.array([0.3, -1.0, 2.0])
    h = affine(made.first, x)
    for block in made.blocks:
        short = h if block.shortcut is None else affine(block.shortcut, h)
        h = short + affine(block.out, np.tanh(affine(block.into, norm(h))))
    assert [block.shortcut is None for block in made.blocks] == [True, True, False]  # 4 4 4 6
    found = made(jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(found, affine(made.last, norm(h)), rtol=1e-4, atol=1e-5)


def test_dropout_of_a_residual_network_is_in_the_loss_only() -> None:
    state = IQL(actor_network="residual", actor_dropout=0.5, hidden_sizes=(8,)).init(SPEC, key())
    s = jnp.ones(3)
    assert bits(state.actor.mode(s)) == bits(state.actor.mode(s))
    assert bits(state.actor.mode(s, key(1))) != bits(state.actor.mode(s, key(2)))
    with pytest.raises(InputError, match=r"actor_dropout 0\.5: the actor's network"):
        IQL(actor_network=sines, actor_dropout=0.5, hidden_sizes=(8,)).init(SPEC, key())


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ("layernom", "unknown network 'layernom'; did you mean layernorm"),
        ("residual+mlp", "'mlp' is a second one to build"),
        (lambda *_, **__: 3, "its factory gave 3; a float32 array of shape .1,. is needed"),
        (lambda *_, **__: lambda x: x, "for 5 numbers; a float32 array of shape .1,. is needed"),
    ],
)
def test_what_is_no_network_is_refused(network: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        QEnsemble(key(), 3, 2, (8,), network=network)


# --- algorithms ---

WITH = {
    name: [f for f in ("critic_network", "actor_network") if f in hyperparameters_of(cls())]
    for name, cls in ALGORITHMS.items()
}


def test_nearly_every_algorithm_takes_them() -> None:
    without = {"dt": [], "idql": ["critic_network"], "qgpo": ["critic_network"], "sfbc": ["critic_network"]}
    without |= {"bc": ["actor_network"], "diffusion-bc": ["actor_network"]}
    assert {name: without.get(name, ["critic_network", "actor_network"]) for name in ALGORITHMS} == WITH


@pytest.mark.parametrize("name", [name for name, fields in WITH.items() if fields])
def test_every_network_field_is_heard(name: str) -> None:
    """Each of them brings its own kind of network into the state, and the two do not mix."""
    kinds = {"critic_network": "residual", "actor_network": sines}
    chosen: dict[str, Any] = {field: kinds[field] for field in WITH[name]}
    if name == "dtql-kl":
        chosen["start_from_denoiser"] = False  # else its actor is a copy of another network
    state = jax.eval_shape(lambda k: ALGORITHMS[name](**chosen).init(SPEC, k), key())
    found = {"critic": "", "actor": ""}
    for field, part in state._asdict().items():
        own = any(word in field for word in ("critic", "value", "q"))
        found["critic" if own else "actor"] += repr(jax.tree.structure(part))
    assert ("ResidualBlock" in found["critic"], "Sines" in found["critic"]) == ("critic_network" in chosen, False)
    assert ("Sines" in found["actor"], "ResidualBlock" in found["actor"]) == ("actor_network" in chosen, False)


LONG = pytest.mark.long  # to trace


@pytest.mark.parametrize("name", ["dtql", "dac", pytest.param("bdpo", marks=LONG), "iql", "td3-bc", "fql", "bc"])
def test_an_update_and_the_policy_take_any_network(name: str) -> None:
    sizes = {"ensemble_size": 3} if name in ("dac", "bdpo") else {}  # three heads become one with an axis
    algorithm = ALGORITHMS[name](hidden_sizes=(8,), **dict.fromkeys(WITH[name], sines), **sizes)
    row = jnp.zeros(4, jnp.float32)
    batch = tether_batch(row)
    state = jax.eval_shape(lambda k: algorithm.init(SPEC, k), key())
    after, metrics = jax.eval_shape(algorithm.phases()[-1].update, state, batch, key(), jnp.int32(0))
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert metrics
    action = jax.eval_shape(lambda s, k: algorithm.policy(s)(jnp.zeros(3, jnp.float32), k), state, key())
    assert action.shape == (2,)


def tether_batch(row: Array) -> Any:
    from tether.types import Transition

    return Transition(jnp.ones((len(row), 3)), jnp.zeros((len(row), 2)), row, jnp.ones((len(row), 3)), row)


def test_a_factory_is_told_what_its_input_is_made_of() -> None:
    told = []

    def factory(key: Array, in_sizes: Any, hidden_sizes: Any, out_size: int, **how: Any) -> Any:
        told.append((in_sizes, hidden_sizes, out_size, how["layer_norm"], how["activation"]))
        return sines(key, in_sizes, hidden_sizes, out_size)

    DTQL(critic_network=factory, hidden_sizes=(8, 4)).init(SPEC, key())
    q, v = ((3, 2), (8, 4), 1, True, mish), ((3,), (8, 4), 1, False, mish)
    assert told == [q, q, v]


def test_equinox_own_mlp_will_do() -> None:
    def factory(key: Array, in_sizes: Any, hidden_sizes: Any, out_size: int, **how: Any) -> Any:
        return eqx.nn.MLP(sum(in_sizes), out_size, 8, 2, jax.nn.swish, key=key)

    one, two = (DTQL(critic_network=factory).init(SPEC, key(seed)).critic for seed in (0, 1))
    assert all(map(eqx.is_array, jax.tree.leaves(one)))  # its activation is not among them
    assert jax.tree.structure(one) == jax.tree.structure(two)
    hash(jax.tree.structure(one))
    x, head = (
        jnp.arange(5.0, dtype=jnp.float32),
        eqx.nn.MLP(5, 1, 8, 2, jax.nn.swish, key=jax.random.split(jax.random.split(key(), 4)[0])[0]),
    )
    assert bits(one.q(x[:3], x[3:])[0]) == bits(head(x)[0])


# --- records ---


@pytest.fixture
def _registered() -> Any:
    yield tether.register("sines", kind="network")(sines)
    registry("network")._registered.pop("sines", None)


def train(folder: Path, **fields: Any) -> Path:
    algorithm = BC(hidden_sizes=(8,), train_updates=4, **fields)
    options = tether.Options(batch_size=8, log_every_updates=2, eval_every_updates=4)
    return tether.train(algorithm, str(data_file()), options=options, environment="none", out=folder, quiet=True).folder


def test_a_factory_is_recorded_by_name_and_needed_again(tmp_path: Path) -> None:
    folder = train(tmp_path / "run", actor_network=sines)
    config = json.loads((folder / "config.json").read_text())
    assert config["hyperparameters"]["actor_network"] == f"{__name__}:sines"
    named = f"{__name__}:sines"
    refused = f"actor_network '{named}': is not registered here; import it: --plugin {__name__} .*actor_network=sines"
    for attempt in (lambda: tether.resume(folder, updates=8, quiet=True), lambda: load_policy(folder)):
        with pytest.raises(InputError, match=refused):
            attempt()
    mine = BC(actor_network=sines)
    action = load_policy(folder, algorithm=mine)(np.zeros(11))
    assert tether.resume(folder, updates=8, quiet=True, algorithm=mine).status == "done"
    whole = train(tmp_path / "whole", actor_network=sines)
    assert tether.resume(whole, updates=8, quiet=True, algorithm=mine).status == "done"
    assert bits(load_policy(folder, algorithm=mine).module) == bits(load_policy(whole, algorithm=mine).module)
    assert action.shape == (3,)


@pytest.mark.usefixtures("_registered")
def test_a_registered_factory_is_found_by_its_name(tmp_path: Path) -> None:
    assert hyperparameters_of(BC(actor_network=sines))["actor_network"] == "sines"
    assert make_algorithm("bc", {"actor_network": f"{__name__}:sines"}).actor_network == "sines"
    folder = train(tmp_path / "run", actor_network="sines+8x8")
    assert load_policy(folder)(np.zeros(11)).shape == (3,)
    registry("network")._registered.pop("sines")
    with pytest.raises(InputError, match="unknown network 'sines'"):
        load_policy(folder)


def test_an_unknown_name_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown network 'layernom'; did you mean layernorm"):
        train(tmp_path / "run", actor_network="layernom")
    assert not (tmp_path / "run").exists()


def test_a_name_in_a_record_is_never_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "trap_of_networks.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match="--plugin trap_of_networks"):
        make_algorithm("bc", {"actor_network": "trap_of_networks:sines"})
    assert "trap_of_networks" not in sys.modules


def test_a_script_is_no_plugin() -> None:
    with pytest.raises(InputError, match="was defined in a script or notebook: define it again") as caught:
        make_algorithm("bc", {"actor_network": "__main__:sines"})
    assert "--plugin" not in str(caught.value)


# --- other processes, and programs that are kept ---


@pytest.mark.usefixtures("_registered")
@pytest.mark.parametrize("network", ["sines", "relu+sines"])
def test_a_worker_makes_the_same_policy(network: Any) -> None:
    check_worker(network)


def test_a_worker_imports_what_the_run_has_at_hand() -> None:
    check_worker(sines)


def check_worker(network: Any) -> None:
    algorithm = BC(hidden_sizes=(8,), actor_network=network)
    assert can_be_made_elsewhere(algorithm)
    pool = WorkerPool(0, get_task("hopper"), algorithm, Spec(11, 3))
    about = json.loads(json.dumps(pool._about))
    assert (about["modules"] == [__name__]) == isinstance(network, str)
    skeleton = worker._skeleton(about | {"keys": [0, 1], "low": [-1.0] * 3, "high": [1.0] * 3})
    assert "Sines" in repr(jax.tree.structure(skeleton))
    assert not can_be_made_elsewhere(dataclasses.replace(algorithm, actor_network=lambda *_, **__: None))


def test_a_program_with_somebodys_code_is_not_kept(tmp_path: Path) -> None:
    """Their sources are not in its key."""
    data = tether_batch(jnp.zeros(4, jnp.float32))
    programs.keep_programs_in(tmp_path)
    try:
        for network, kept in (("layernorm", True), (sines, False), (find_network("relu"), True)):
            algorithm = BC(hidden_sizes=(8,), actor_network=network)
            state = algorithm.init(SPEC, key())

            def update(arguments: Any) -> Any:
                return arguments[0].update(*arguments[1:], jnp.int32(0))

            arguments = jax.tree.map(jnp.asarray, (algorithm, state, data, key()))
            program = programs.kept_program(update, arguments, algorithm, {}, lambda s=state: jax.tree.structure(s))
            assert (program is not None) == kept, network
    finally:
        programs.keep_programs_in(None)


@pytest.mark.usefixtures("_registered")
def test_nor_one_that_names_it(tmp_path: Path) -> None:
    assert not programs._is_known(BC(actor_network="relu+sines"))
    assert programs._is_known(BC(actor_network="relu+residual"))
