"""Names of columns and the robot's range of actions: order is kept, nothing altered is accepted."""

import json
from typing import Any

import numpy as np
import pytest

from tether.data import Dataset, Source, prepare
from tether.data.schema import ActionBox, Schema, join, layout_of, size_of, summary
from tether.errors import InputError

SCHEMA = Schema(
    observation=layout_of({"z": 2, "a": 1, "m": 3}),
    action=layout_of({"left": 1, "right": 1}),
    box=ActionBox(low=(-2.0, 0.0), high=(2.0, 100.0)),
)


def test_layouts_keep_the_order_they_are_given() -> None:
    assert SCHEMA.observation == {"z": (0, 2), "a": (2, 3), "m": (3, 6)}
    assert list(SCHEMA.observation) == ["z", "a", "m"]
    assert size_of(SCHEMA.observation) == 6
    again = Schema.from_json(json.loads(json.dumps(SCHEMA.to_json())), "here")
    assert again == SCHEMA
    assert list(again.observation) == ["z", "a", "m"]
    assert summary(SCHEMA.observation) == "z[2], a, m[3]"
    assert summary(layout_of({f"joint_{i}": 1 for i in range(20)})).startswith(
        "joint_0, joint_1, joint_2, joint_3, ..."
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s["observation"].pop("a"), "slices of its observation have gaps"),
        (lambda s: s["observation"].update(a=[2, 2]), "slices of its observation have gaps"),
        (lambda s: s["observation"].update(a=[2]), "altered schema: IndexError"),
        (lambda s: s["action"].clear(), "slices of its action have gaps"),
        (lambda s: s["action_high"].__setitem__(0, -3.0), "low is above its high"),
        (lambda s: s["action_high"].__setitem__(0, float("nan")), "one finite pair"),
        (lambda s: s["action_low"].pop(), "one finite pair"),
        (lambda s: s.update(action_low="ab"), "altered schema: ValueError"),
        (lambda s: s.pop("action"), "altered schema: KeyError"),
        (lambda s: s.update(action=[1]), "altered schema: AttributeError"),
    ],
)
def test_an_altered_schema_is_refused(change: Any, message: str) -> None:
    value = json.loads(json.dumps(SCHEMA.to_json()))
    change(value)
    with pytest.raises(InputError, match=f"here: .*{message}"):
        Schema.from_json(value, "here")


def test_the_box_maps_onto_the_unit_box_and_back() -> None:
    actions = np.array([[-2.0, 0.0], [2.0, 100.0], [0.0, 50.0], [1.0, 75.0]], np.float32)
    unit = SCHEMA.box.to_unit(actions)
    np.testing.assert_allclose(unit, [[-1, -1], [1, 1], [0, 0], [0.5, 0.5]])
    np.testing.assert_allclose(unit * SCHEMA.box.scale + SCHEMA.box.offset, actions)
    fixed = ActionBox((3.0,), (3.0,))
    np.testing.assert_array_equal(fixed.to_unit(np.full((2, 1), 3.0, np.float32)), 0.0)
    assert (fixed.scale, fixed.offset) == (0.0, 3.0)
    assert ActionBox((-1.0,), (1.0,)).is_unit()
    assert not fixed.is_unit()


def test_dictionaries_become_vectors_in_the_layouts_order() -> None:
    values = {"m": [4, 5, 6], "a": 3, "z": np.array([1, 2])}
    np.testing.assert_array_equal(join(SCHEMA.observation, values), [1, 2, 3, 4, 5, 6])
    batch = {"m": np.ones((2, 3)), "a": np.array([7.0, 8.0]), "z": np.zeros((2, 2))}
    np.testing.assert_array_equal(join(SCHEMA.observation, batch), [[0, 0, 7, 1, 1, 1], [0, 0, 8, 1, 1, 1]])
    for wrong, message in [({"a": 1}, "no 'z', no 'm'"), ({**values, "b": 1}, "no such entry as 'b'")]:
        with pytest.raises(InputError, match=message):
            join(SCHEMA.observation, wrong)


def dataset(**changes: Any) -> Dataset:
    rows = 6
    arguments = {
        "name": "robot",
        "observations": np.arange(rows * 6.0).reshape(rows, 6),
        "actions": np.zeros((rows, 2)),
        "rewards": np.ones(rows),
        "terminals": np.array([0, 1, 0, 0, 1, 0]),
        "timeouts": np.array([0, 0, 0, 1, 0, 1]),
        "next_observations": None,
        "source": Source("robot.hdf5", "0" * 64),
        "schema": SCHEMA,
    }
    return Dataset(**{**arguments, **changes})


def test_a_data_set_carries_its_schema_to_the_record_of_a_run() -> None:
    prepared = prepare(dataset())
    assert prepared.schema == SCHEMA
    assert Schema.from_json(json.loads(json.dumps(prepared.record))["schema"], "config.json") == SCHEMA
    with pytest.raises(InputError, match="observations have 5 numbers but the schema names 6"):
        dataset(observations=np.zeros((6, 5)))
    with pytest.raises(InputError, match="actions have 3 numbers but the schema names 2"):
        dataset(actions=np.zeros((6, 3)))


def test_recordings_that_go_on_after_success() -> None:
    np.testing.assert_array_equal(dataset().episode_lengths(), [2, 2, 1, 1])
    going_on = dataset(terminals_end_episodes=False)
    np.testing.assert_array_equal(going_on.episode_lengths(), [4, 2])
    np.testing.assert_array_equal(going_on.episode_returns(), [4, 2])
    np.testing.assert_array_equal(going_on.transitions().terminal, [0, 1, 0, 1])  # rows 3 and 5 are time-outs
