"""`tether algorithms` and `tether tasks`."""

import dataclasses

from tether.cli.parts import (
    print_out,
)

__all__ = ["Algorithms", "Tasks"]


@dataclasses.dataclass(frozen=True)
class Algorithms:
    """List the algorithms: what each is, its paper, published settings, checks passed, what it costs.

    Examples:
      tether algorithms
    """

    def run(self) -> int:
        """One row each, by family."""
        from tether.cli.catalogue import LEGEND, algorithms_table

        print_out(algorithms_table())
        for line in LEGEND:
            print_out(line)
        return 0


@dataclasses.dataclass(frozen=True)
class Tasks:
    """List the tasks: environment, reference returns, presets."""

    def run(self) -> int:
        """One row each."""
        from rich.table import Table

        from tether.algorithms import ALGORITHMS
        from tether.environments import TASKS
        from tether.environments.tasks import ENVIRONMENTS, get_task
        from tether.errors import InputError
        from tether.presets import preset_names

        table = Table(title="tasks", title_justify="left")
        for column in ("task", "evaluated in", "steps", "return of score 0", "of score 100", "data sets with a preset"):
            table.add_column(column)
        presets = {preset for name in ALGORITHMS for preset in preset_names(name)}
        tasks, broken = list(TASKS.values()), {}
        for name in ENVIRONMENTS:  # those that others registered
            try:
                tasks.append(get_task(name))
            except InputError as error:
                broken[name] = error
        for task in tasks:
            where = f"{task.evaluated_in} ({task.extra})" if task.extra else task.evaluated_in
            bounds = ("?" if bound is None else f"{bound:g}" for bound in (task.reference_min, task.reference_max))
            names = [dataset for dataset in task.datasets if dataset in presets]
            table.add_row(task.name, where, str(task.horizon or "?"), *bounds, "\n".join(names))
        for name, error in broken.items():
            table.add_row(name, f"cannot be used: {error}")
        print_out(table)
        for extra in sorted({task.extra for task in TASKS.values() if task.extra}):
            print_out(f'({extra}): needs pip install "tether-rl[{extra}]"')
        return 0
