"""gymnasium's ids of the adapted environments; importing this module registers them.

    gymnasium.make("tether.environments.registry:tether/AntMaze-v0", maze="umaze", max_episode_steps=700)

gymnasium imports a module when one of its environments is made: gymnasium-robotics is needed for those two only
that are built on it, Adroit and Kitchen. These two are wrappers, which gymnasium 1.2 takes from a function only.
"""

import gymnasium

__all__ = ["ENTRY_POINTS"]

ENTRY_POINTS = {
    "tether/AntMaze-v0": "tether.environments.antmaze:AntMaze",
    "tether/PointMaze-v0": "tether.environments.pointmaze:PointMaze",
    "tether/Adroit-v0": "tether.environments.adroit:make_adroit",
    "tether/Kitchen-v0": "tether.environments.kitchen:make_kitchen",
}

for _id, _entry_point in ENTRY_POINTS.items():
    gymnasium.register(_id, _entry_point, disable_env_checker=True)
