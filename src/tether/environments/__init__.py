"""Tasks: which environment a data set belongs to, and what its returns are measured against."""

from tether.environments.tasks import TASKS, Task, d4rl_datasets, find_task, get_task, recorded_task

__all__ = ["TASKS", "Task", "d4rl_datasets", "find_task", "get_task", "recorded_task"]
