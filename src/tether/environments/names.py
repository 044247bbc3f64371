"""The parts of benchmarks' names.

hopper-medium-v2                  D4RL: environment, data, version, which names of files often lack
scene-play-singletask-task2-v0    OGBench: environment, data, single task, version; all tasks of a file share its data
"""

import re

__all__ = ["is_single_task", "without_single_task", "without_task_number", "without_version"]


def without_version(name: str) -> str:
    """`hopper-medium-v2` -> `hopper-medium`; names without one are as they were."""
    return re.sub(r"-v\d+$", "", name)


def is_single_task(name: str) -> bool:
    """Whether it is that of a single task of OGBench's, whose rewards are of one goal."""
    return "-singletask-" in name


def without_single_task(name: str) -> str:
    """`scene-play-singletask-task2-v0` -> `scene-play-v0`, whose data it shares."""
    return re.sub(r"-singletask(-task\d+)?(?=-v\d)", "", name)


def without_task_number(name: str) -> str:
    """`scene-play-singletask-task2-v0` -> `scene-play-singletask-v0`, whose settings it shares."""
    return re.sub(r"-singletask-task\d+-", "-singletask-", name)
