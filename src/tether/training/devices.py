"""Where lanes live: one device, all local ones, or those of several processes (`jax.distributed`).

The axis "lanes" is spread over the devices and everything else is copied to each. Lanes do not speak to each other,
so the program that trains them holds no communication; processes only meet to gather results.
"""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tether.errors import InputError

__all__ = ["AXIS", "Devices", "any_process", "choose_devices", "connect", "is_primary", "to_host", "together"]

AXIS = "lanes"
CONNECTION = "TETHER_DISTRIBUTED"
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")  # where all processes are on one machine
GRAMMAR = "auto, or ADDRESS:PORT,PROCESSES,INDEX such as 10.0.0.1:1234,2,0"


def connect(text: str | None) -> bool:
    """Join the other processes that `text`, or else the environment variable TETHER_DISTRIBUTED, tells of.

    text: "auto" (JAX asks Slurm, MPI or the cloud), or "ADDRESS:PORT,PROCESSES,INDEX" with the address of process 0;
    None: the variable, and where it is not set nothing is done. Must come before the first computation.
    Returns whether there are several processes now. Raises InputError for text that says something else.
    """
    text = text or os.environ.get(CONNECTION)
    if not text:
        return False
    if text == "auto":
        jax.distributed.initialize()
        return jax.process_count() > 1
    parts = text.split(",")
    if len(parts) != 3 or ":" not in parts[0] or not (parts[1].isdecimal() and parts[2].isdecimal()):
        raise InputError(f"distributed {text!r}: write {GRAMMAR}")
    count, index = int(parts[1]), int(parts[2])
    if not 0 <= index < count:
        raise InputError(f"distributed {text!r}: the index must be from 0 to {count - 1}")
    host, _, port = parts[0].rpartition(":")
    # Without this the first process listens on every address of its machine.
    bind = f"{host}:{port}" if host in LOOPBACK else None
    jax.distributed.initialize(parts[0], count, index, coordinator_bind_address=bind)
    return count > 1


def is_primary() -> bool:
    """Whether this process is the one that writes files and speaks to people."""
    return jax.process_index() == 0


def any_process(flag: bool) -> bool:
    """Whether `flag` is set in any process; all of them must ask at the same point."""
    if jax.process_count() == 1:
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))


def together(name: str) -> None:
    """Wait until all processes are here, so that what one has written the others can read."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


class Devices(NamedTuple):
    """The devices that lanes are spread over."""

    mesh: Mesh | None  # None: one device, where nothing needs to be spread

    @property
    def total(self) -> int:
        """How many."""
        return 1 if self.mesh is None else self.mesh.size

    def spread(self, tree: Any) -> Any:
        """`tree`, whole in every process, with its leading axis over the devices, which must divide it."""
        return self._place(tree, PartitionSpec(AXIS))

    def everywhere(self, tree: Any) -> Any:
        """`tree` whole on every device."""
        return self._place(tree, PartitionSpec())

    def spread_local(self, tree: Any, size: int) -> Any:
        """As `spread`, of a tree that holds only the positions that this process has devices for
        (`local_positions`)."""
        if self.mesh is None:
            return tree
        sharding = NamedSharding(self.mesh, PartitionSpec(AXIS))

        def place(leaf: Any) -> Any:
            leaf = np.asarray(leaf)
            return jax.make_array_from_process_local_data(sharding, leaf, (size, *leaf.shape[1:]))

        return jax.tree.map(place, tree)

    def local_positions(self, size: int) -> list[int]:
        """The positions of a spread axis of length `size` that lie on devices of this process."""
        if self.mesh is None:
            return list(range(size))
        each, here = size // self.total, jax.process_index()
        owners = [device.process_index for device in self.mesh.devices.flat]
        return [position for position in range(size) if owners[position // each] == here]

    def _place(self, tree: Any, spec: PartitionSpec) -> Any:
        if self.mesh is None:
            return tree
        sharding = NamedSharding(self.mesh, spec)

        def place(leaf: Any) -> Any:
            if jax.process_count() == 1:
                return jax.device_put(leaf, sharding)
            if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                return jax.random.wrap_key_data(place(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))
            whole = np.asarray(leaf)
            return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])

        return jax.tree.map(place, tree)


def to_host(tree: Any) -> Any:
    """The arrays of `tree` whole, as NumPy arrays, in every process; all of them must ask at the same point."""
    if jax.process_count() == 1:
        return jax.device_get(tree)

    def gather(leaf: Any) -> Any:
        # What is whole in this process already is left alone: gathering would stack the copies.
        return np.asarray(leaf) if _is_whole(leaf) else multihost_utils.process_allgather(leaf, tiled=True)

    return jax.tree.map(gather, tree)


def _is_whole(leaf: Any) -> bool:
    return not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated


def choose_devices(lanes: int, devices: Sequence[Any] | None = None) -> Devices:
    """Those for a run of so many lanes: no more than lanes, except that every process takes part.

    devices: to choose from; default all of them.
    """
    found = list(jax.devices() if devices is None else devices)
    if jax.process_count() == 1:
        found = found[:lanes]
    return Devices(Mesh(np.array(found), (AXIS,)) if len(found) > 1 else None)
