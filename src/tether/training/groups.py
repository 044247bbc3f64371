"""The lanes of a run on their devices: cut into groups that fit, every group spread over the devices.

Groups take turns: each does the same piece of training before the next one starts. Those that wait are kept in
main memory. A lane's numbers depend on nothing but its seed and settings, so grouping changes none of them.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tether.machine.programs import KeptProgram, kept_program
from tether.networks import stack_heads, unstack_heads
from tether.training.derive import derive_columns
from tether.training.devices import Devices, to_host
from tether.training.lanes import take_lane
from tether.training.loop import Progress, init_lanes, run_updates
from tether.training.validation import validation_metrics
from tether.types import Spec

__all__ = ["Group", "LaneGroups", "cut_lanes"]


@dataclasses.dataclass
class Group:
    """Lanes of one program, leading axis `size` on every array; the last ones may be padding."""

    lanes: np.ndarray  # (size,): numbers of lanes of the run; padding repeats the last one
    real: int  # number of real lanes
    algorithm: Any
    keys: Any
    state: Any = None  # with large ensembles stacked (`networks.stack_heads`), inside this module alone
    derived: Any = None  # columns that the current phase made of the data
    held_out_derived: Any = None  # the same of the episodes that are held out
    replay: Any = None  # what the lanes have collected themselves (`training/replay.py`)

    @property
    def size(self) -> int:
        """Lanes of the program, padding included."""
        return len(self.lanes)


def cut_lanes(count: int, most: int, devices: int) -> list[np.ndarray]:
    """Lane numbers of each group: as few groups as `most` lanes at once allow, all of one size, which the number of
    devices divides (a group has at least a lane for each). Padding repeats the last lane."""
    if most < count:
        most = max(most - most % devices, devices)
    groups = -(-count // most)
    size = -(-count // groups)
    size += -size % devices
    return list(np.minimum(np.arange(groups * size), count - 1).reshape(groups, size))


class LaneGroups:
    """All lanes of a run: their hyper-parameters, keys, states and columns."""

    def __init__(self, algorithm: Any, init_keys: Any, keys: Any, devices: Devices, most: int):
        """algorithm, init_keys, keys: leading axis `lanes`. most: lanes at once."""
        self.devices = devices
        self.count = len(keys)
        self._algorithm, self._init_keys, self.keys = algorithm, init_keys, keys
        self.groups = self._cut(most)
        self._kept: dict[Any, KeptProgram] = {}  # (how, size of a group) -> the program of the updates

    def _cut(self, most: int) -> list[Group]:
        cuts = cut_lanes(self.count, most, self.devices.total)
        if len(cuts) == 1 and self.devices.mesh is None:  # as it is
            return [Group(cuts[0], self.count, self._algorithm, self.keys)]
        groups = []
        for start, lanes in enumerate(cuts):
            real = min(self.count - start * len(lanes), len(lanes))
            parts = jax.tree.map(lambda leaf, lanes=lanes: leaf[lanes], (self._algorithm, self.keys))
            groups.append(Group(lanes, real, *self.devices.spread(parts)))
        return groups

    @property
    def lanes_on_device(self) -> int:
        """Number of lanes of one group on each device."""
        return self.groups[0].size // self.devices.total

    # --- states ---

    @property
    def initialised(self) -> bool:
        """Whether there are states."""
        return self.groups[0].state is not None

    def init(self, spec: Spec) -> None:
        """Fresh networks of all lanes."""
        for group in self.groups:
            keys = self._init_keys
            if self.devices.mesh is not None or len(self.groups) > 1:
                keys = self.devices.spread(self._init_keys[group.lanes])
            group.state = self._park(self._init(group.algorithm, spec, keys))

    def _init(self, algorithm: Any, spec: Spec, keys: Any) -> Any:
        """Fresh states of the lanes with these keys."""
        arguments = algorithm, keys
        if self.devices.mesh is None:
            kept = kept_program(
                lambda both: (init_lanes(both[0], spec, both[1], stacked=True), {}),
                arguments,
                algorithm,
                {"program": "init", "spec": spec},
                lambda: jax.tree.structure(jax.eval_shape(lambda: init_lanes(algorithm, spec, keys, stacked=True))),
            )
            if kept is not None:
                return kept(arguments)[0]
        return init_lanes(algorithm, spec, keys, mesh=self.devices.mesh, stacked=True)

    def state_shapes(self, spec: Spec) -> Any:
        """Shapes of the state of all lanes, leading axis `lanes`."""
        return jax.eval_shape(lambda keys: init_lanes(self._algorithm, spec, keys), self._init_keys)

    def put(self, state: Any, keys: Any) -> None:
        """Go on from `state` (leading axis `lanes`, NumPy arrays) and `keys`."""
        self.keys = keys
        self.groups = self._cut(max(group.size for group in self.groups))
        self._put_state(state)

    def _put_state(self, state: Any) -> None:
        for group in self.groups:
            part = stack_heads(jax.tree.map(lambda leaf, group=group: np.asarray(leaf)[group.lanes], state), axis=1)
            group.state = self._park(jax.tree.map(jnp.asarray, self.devices.spread(part)))

    def state(self) -> Any:
        """The state of all lanes, leading axis `lanes`, as NumPy arrays; in all processes at the same point."""
        return unstack_heads(self._whole([group.state for group in self.groups]), axis=1)

    def _whole(self, trees: Sequence[Any]) -> Any:
        parts = [
            jax.tree.map(lambda leaf, group=group: np.asarray(leaf)[: group.real], to_host(tree))
            for group, tree in zip(self.groups, trees, strict=True)
        ]
        return parts[0] if len(parts) == 1 else jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)

    def regroup(self, most: int) -> None:
        """At most so many lanes at once from here on."""
        state = self.state()
        derived = None if self.groups[0].derived is None else self._whole([group.derived for group in self.groups])
        self.groups = []  # free the old ones first
        self.groups = self._cut(most)
        self._put_state(state)
        if derived is not None:
            for group in self.groups:
                part = jax.tree.map(lambda leaf, group=group: leaf[group.lanes], derived)
                group.derived = self._park(jax.tree.map(jnp.asarray, self.devices.spread(part)))

    def take(self, lanes: Sequence[int] | int) -> tuple[Any, Any]:
        """(algorithm, state) of these lanes, leading axis `len(lanes)`, or of one without that axis; on one device."""
        index = np.asarray(lanes)
        if len(self.groups) == 1 and self.devices.mesh is None and np.array_equal(index, np.arange(self.count)):
            return self._algorithm, unstack_heads(self.groups[0].state, axis=1)
        # Indexed on the host: on the device each shape of a leaf would compile programs of its own.
        part = jax.tree.map(lambda leaf: np.asarray(leaf).take(index, axis=0), (self._algorithm, self.state()))
        return jax.device_put(part)

    @property
    def replay(self) -> Any:
        """What the lanes have collected themselves: of lanes that are one group on one device, None of others."""
        return self.groups[0].replay

    @replay.setter
    def replay(self, replay: Any) -> None:
        assert len(self.groups) == 1
        assert self.devices.mesh is None
        self.groups[0].replay = replay

    # --- training ---

    def derive(self, data: Any, phase: int, on_piece: Callable[[int, int], None]) -> None:
        """Make the columns that the phase trains on beside the data's, if it has any, one lane after the other."""
        done = 0
        for group in self.groups:
            group.derived = group.held_out_derived = None  # those of before are not needed any more
        for group in self.groups:
            count = group.size

            def counted(rows: int, all_rows: int, done: int = done, count: int = count) -> None:
                on_piece(done * all_rows // count + rows, len(self.groups) * all_rows)

            if self.devices.mesh is None:
                parts = group.algorithm, group.state, group.keys
            else:
                local = self.devices.local_positions(count)
                state = take_lane(to_host(group.state), np.asarray(local))
                here = group.lanes[local]
                parts = take_lane(self._algorithm, here), jax.tree.map(jnp.asarray, state), self.keys[here]
            columns = derive_columns(*parts, data, phase=phase, on_piece=counted)
            if columns is not None:
                group.derived = self._park(self.devices.spread_local(columns, count))
            done += count

    def arguments(self, group: Group, alive: np.ndarray, data: Any, start: int, count: int) -> tuple[Any, ...]:
        """The positional arguments of `run_updates`."""
        living = alive[group.lanes] & (np.arange(group.size) < group.real)
        where = self.devices.spread(living) if self.devices.mesh is not None else living
        state = self._fetch(group.state)
        return group.algorithm, state, group.keys, where, data, np.int32(start), np.int32(count)

    def program(self, data: Any, **how: Any) -> Any:
        """Compile the program that all groups share. Running it later compiles no more. `how`: as of `run`."""
        group = self.groups[0]
        arguments = self.arguments(group, np.ones(self.count, bool), data, 0, 0)
        own = self._own(group)
        if self.devices.mesh is None and (kept := self._kept_updates(group, (arguments, own), how)) is not None:
            self._kept = {_name(how, group): kept}  # that of the phase before is not needed any more
            return kept
        return run_updates.lower(*arguments, **how, **own, mesh=self.devices.mesh).compile()

    def _own(self, group: Group) -> dict[str, Any]:
        """The arguments of `run_updates` that hold rows of each lane's own."""
        return {"derived": self._fetch(group.derived), "replay": group.replay}

    def _kept_updates(self, group: Group, arguments: Any, how: dict[str, Any]) -> KeptProgram | None:
        """`run_updates` without tracing it, where it was traced before."""

        def function(arguments: Any) -> Any:
            positional, own = arguments
            progress = run_updates(*positional, **how, **own)
            return (progress.state, progress.first_nonfinite), progress.metric_sums

        # An update gives a state of the structure that it takes.
        return kept_program(
            function,
            arguments,
            group.algorithm,
            {"program": "updates"} | how,
            lambda: jax.tree.structure((group.state, 0)),
        )

    def _run_group(self, group: Group, arguments: Any, how: dict[str, Any]) -> Progress:
        """`run_updates` by the program that was compiled for it."""
        own = self._own(group)
        if (kept := self._kept.get(_name(how, group))) is not None:
            (state, first), sums = kept((arguments, own))
            return Progress(state, sums, first)
        return run_updates(*arguments, **how, **own, mesh=self.devices.mesh)

    def run(
        self, alive: np.ndarray, data: Any, start: int, count: int, **how: Any
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """`count` updates of every living lane -> metric sums and first non-finite updates, (lanes,) each.

        alive: bool (lanes,); the numbers of other lanes mean nothing. how: the static arguments of `run_updates`,
        without its mesh.
        """
        sums: dict[str, np.ndarray] = {}
        first = np.zeros(self.count, np.int32)
        for group in self.groups:
            real = group.lanes[: group.real]
            if not alive[real].any():
                continue
            progress = self._run_group(group, self.arguments(group, alive, data, start, count), how)
            group.state = self._park(jax.block_until_ready(progress.state))
            found, bad = to_host((progress.metric_sums, progress.first_nonfinite))
            first[real] = np.asarray(bad)[: group.real]
            for name, values in found.items():
                sums.setdefault(name, np.zeros(self.count))[real] = np.asarray(values, np.float64)[: group.real]
        return sums, first

    def validate(
        self, alive: np.ndarray, data: Any, indices: np.ndarray, step: int, **how: Any
    ) -> dict[str, np.ndarray]:
        """Metric -> its mean over held-out minibatches (`training/validation.py`), (lanes,).

        alive: bool (lanes,); the numbers of other lanes mean nothing. data: what the view made of the held-out
        episodes. how: the static arguments of `validation_metrics`. Of several processes each computes all lanes.
        """
        found: dict[str, np.ndarray] = {}
        for group in self.groups:
            real = group.lanes[: group.real]
            if not alive[real].any():
                continue
            algorithm, state, keys = group.algorithm, self._fetch(group.state), group.keys
            if self.devices.mesh is not None:
                algorithm, state, keys = jax.tree.map(jnp.asarray, to_host((algorithm, state, keys)))
            if group.held_out_derived is None:
                group.held_out_derived = derive_columns(algorithm, state, keys, data, phase=how["phase"])
            own = {"derived": group.held_out_derived} | how
            living = jnp.asarray(alive[group.lanes])
            means = validation_metrics(algorithm, state, keys, living, data, indices, np.int32(step), **own)
            for name, values in to_host(means).items():
                found.setdefault(name, np.zeros(self.count))[real] = np.asarray(values, np.float64)[: group.real]
        return found

    def _park(self, tree: Any) -> Any:
        """`tree` where it waits for its turn: in main memory, if there are several groups and a device has its own."""
        return self._move(tree, "pinned_host")

    def _fetch(self, tree: Any) -> Any:
        """What `_park` put away, back on the device."""
        return self._move(tree, "device")

    def _move(self, tree: Any, memory: str) -> Any:
        if len(self.groups) == 1 or not _has_own_memory():
            return tree
        return jax.tree.map(lambda leaf: jax.device_put(leaf, leaf.sharding.with_memory_kind(memory)), tree)


def _name(how: dict[str, Any], group: Group) -> tuple[Any, ...]:
    """Key of a compiled program among those of a run."""
    return *sorted(how.items()), group.size


def _has_own_memory() -> bool:
    """Whether devices have memory of their own beside the main memory."""
    return jax.default_backend() != "cpu"
