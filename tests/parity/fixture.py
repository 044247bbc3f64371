"""What the parity tests share: the numbers of a fixture, its draws in place of keys, weights in and out, comparing."""

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from tether.types import Array, Spec, Transition

FOLDER = Path(__file__).parent
SLACK = 10.0  # times the recorded difference: other processors and compilers round differently
ROUNDING = 2.0**-23  # of the largest value: the least that a recorded difference counts as


class Link(NamedTuple):
    """Where a layer, a norm, an array or a whole MLP of the fixture is in tether."""

    name: str  # in the fixture
    find: Callable[[Any], Any]  # in a state, or in a gradient of its form
    columns: Sequence[int] | None = None  # tether's input j of the first layer is the fixture's columns[j]


class Fixture:
    """The arrays of one method, and how far tether's are from them.

    A network is one vector; its pieces are there by name, too: `start/q1` gives `start/q1/0/weight` and so on.
    """

    def __init__(self, method: str):
        about = json.loads((FOLDER / f"{method}.json").read_text(encoding="utf-8"))
        self.about: dict[str, dict[str, Any]] = about["arrays"]
        with np.load(FOLDER / f"{method}.npz", allow_pickle=False) as file:
            self.arrays = dict(file)
        for name, array in list(self.arrays.items()):
            start = 0
            for piece, shape in about["layouts"].get(self.about[name].get("layout"), ()):
                end = start + int(np.prod(shape))
                self.arrays[f"{name}/{piece}"] = array[start:end].reshape(shape)
                start = end
        self.differences: dict[str, float] = {}  # the largest, of whole arrays

    def __getitem__(self, name: str) -> Array:
        return jnp.asarray(self.arrays[name])

    def number(self, name: str) -> Any:
        """A hyper-parameter as a Python number."""
        return self.arrays[name].item()

    def row(self, name: str, update: int) -> Array:
        """That of one update."""
        return jnp.asarray(self.arrays[name][update])

    def batch(self, update: int) -> Transition:
        """The minibatch of one update."""
        return Transition(*(self.row(f"batch/{field}", update) for field in Transition._fields[:5]))

    def draws(self, update: int) -> dict[str, Array]:
        """Every draw of one update by name."""
        names = [name for name in self.arrays if name.startswith("draw/")]
        return {name.removeprefix("draw/"): self.row(name, update) for name in names}

    def start(self, learner: Any, links: Sequence[Link]) -> Any:
        """A state with the fixture's first weights; what no link leads to, an optimiser's moments, is 0."""
        shapes = jax.eval_shape(lambda key: learner.init(Spec(5, 2), key), jax.random.key(0))
        state = jax.tree.map(lambda leaf: jnp.asarray(np.zeros(leaf.shape, leaf.dtype)), shapes)
        plan = list(_arrays(state, links))
        values = []
        for name, find, columns in plan:
            value = self.arrays[f"start/{name}"]
            values.append(jnp.asarray(value if columns is None else value[..., columns]))
            assert values[-1].shape == find(state).shape, name
        return eqx.tree_at(lambda state: [find(state) for _, find, _ in plan], state, values)

    def compare(self, name: str, ours: Any) -> None:
        """One array, or a piece of one, with tether's."""
        self._note(name, self.arrays[name], ours)

    def compare_weights(self, stage: str, tree: Any, links: Sequence[Link]) -> None:
        """All that the links lead to with the weights, or gradients, of a stage."""
        for name, find, columns in _arrays(tree, links):
            ours = np.asarray(find(tree))
            self.compare(f"{stage}/{name}", ours if columns is None else ours[..., np.argsort(columns)])

    def compare_update(self, case: str, update: int, values: dict[str, Any]) -> None:
        """Numbers of one update with the entries of `<case>/out/<name>`."""
        for name, ours in values.items():
            full = f"{case}/out/{name}".removeprefix("/")
            self._note(full, self.arrays[full][update], ours)

    def _note(self, name: str, theirs: Any, ours: Any) -> None:
        theirs, ours = np.asarray(theirs, np.float64), np.asarray(ours, np.float64)
        assert theirs.shape == ours.shape, (name, theirs.shape, ours.shape)
        while name not in self.about:  # a piece of a network
            name = name.rpartition("/")[0]
        difference = float(np.abs(theirs - ours).max())
        self.differences[name] = max(self.differences.get(name, 0.0), difference if np.isfinite(difference) else np.inf)

    def tolerance(self, name: str) -> float:
        """What an array may differ by."""
        about = self.about[name]
        return SLACK * max(about["tether_difference"], ROUNDING * about["largest_value"])

    def verdict(self) -> None:
        """Every output array of the fixture was compared and is within its tolerance."""
        outputs = {name for name, about in self.about.items() if about["role"] == "output"}
        assert self.differences.keys() == outputs
        off = [
            f"{name}: off by {difference:.1e}, allowed {self.tolerance(name):.1e}"
            for name, difference in self.differences.items()
            if difference > self.tolerance(name)
        ]
        assert not off, "\n".join(off)


def _arrays(tree: Any, links: Sequence[Link]) -> Iterator[tuple[str, Callable, Sequence[int] | None]]:
    """(name, what finds it, order of its columns) of every array that the links lead to."""
    for link in links:
        for suffix, piece in _pieces(link.find(tree)):
            find = lambda tree, link=link, piece=piece: piece(link.find(tree))  # noqa: E731
            columns = link.columns if suffix in ("", "/0") else None
            if not hasattr(find(tree), "weight"):
                yield link.name + suffix, find, columns
                continue
            yield f"{link.name}{suffix}/weight", lambda tree, find=find: find(tree).weight, columns
            yield f"{link.name}{suffix}/bias", lambda tree, find=find: find(tree).bias, None


def _pieces(found: Any) -> Iterator[tuple[str, Callable]]:
    """(suffix, what finds it) of the affine maps and norms of an MLP; what is none is one piece."""
    if not hasattr(found, "layers"):
        yield "", lambda found: found
        return
    for i in range(len(found.layers)):
        yield f"/{i}", lambda found, i=i: found.layers[i]
    for i in range(len(found.norms)):
        yield f"/norm{i}", lambda found, i=i: found.norms[i]


def heads(find: Callable[[Any], Any], *names: str, columns: Sequence[int] | None = None) -> list[Link]:
    """The heads of an ensemble by their names in the fixture."""
    return [Link(name, lambda tree, i=i: find(tree).heads[i], columns) for i, name in enumerate(names)]


def norm(tree: Any) -> float:
    """Joint L2 norm of all leaves."""
    return float(np.sqrt(sum(np.sum(np.square(leaf, dtype=np.float64)) for leaf in jax.tree.leaves(tree))))


@eqx.filter_jit
def act(policy: Any, observation: Array, key: Any = None) -> Array:
    """Actions for many observations, each with a key of its own where one is needed."""
    return jax.vmap(policy, in_axes=(0, None if key is None else 0))(observation, key)


class _Draws:
    """`jax.random`, where a key is what is to be drawn with it.

    A tuple is split into its parts, an array (or a tree of them) into its rows; what is drawn is the key itself, of a
    uniform number the share of its range.
    """

    @staticmethod
    def split(key: Any, num: int = 2) -> Any:
        assert (isinstance(key, tuple) and len(key) == num) or all(len(leaf) == num for leaf in jax.tree.leaves(key))
        return key

    @staticmethod
    def normal(key: Array, shape: Any = (), dtype: Any = None) -> Array:
        assert key.shape == tuple(shape), (key.shape, shape)
        return key

    gumbel = normal

    @classmethod
    def randint(cls, key: Array, shape: Any, minval: Any, maxval: Any, dtype: Any = None) -> Array:
        return cls.normal(key, shape)

    @classmethod
    def uniform(cls, key: Array, shape: Any = (), dtype: Any = None, minval: Any = 0.0, maxval: Any = 1.0) -> Array:
        return minval + (maxval - minval) * cls.normal(key, shape)

    @staticmethod
    def bernoulli(key: Array, p: Any = 0.5, shape: Any = ()) -> Array:
        return key

    @staticmethod
    def choice(key: Array, a: Any, shape: Any, replace: bool) -> Array:
        return key

    @staticmethod
    def categorical(key: Array, logits: Array, axis: int = -1) -> Array:
        return jnp.argmax(logits + key, axis=axis)


class _JaxWithDraws:
    random = _Draws

    def __getattr__(self, name: str) -> Any:
        return getattr(jax, name)


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """Within, tether's modules draw what they are given in place of keys."""
    modules = [module for name, module in sys.modules.items() if name.startswith("tether")]
    modules = [module for module in modules if getattr(module, "jax", None) is jax]
    for module in modules:
        module.jax = _JaxWithDraws()
    try:
        yield
    finally:
        for module in modules:
            module.jax = jax
