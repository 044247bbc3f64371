"""The figures as tables."""

from collections.abc import Iterable, Mapping
from typing import Any

from rich.table import Table

__all__ = ["acting_table", "bench_table", "settings_text"]

COLUMNS = (
    *("algorithm", "what", "lanes", "per second", "of matmul rate", "x one lane", "matmul GFLOP", "compile s"),
    *("candidates", "p50 ms", "p99 ms"),
)


def bench_table(figures: Mapping[str, Any]) -> Table:
    """All rows, but those of budgets."""
    titles = [
        f"batch {run['sizes']['batch_size']}, observation {run['sizes']['observation_size']}, "
        f"action {run['sizes']['action_size']}, {run['machine']['cores']} core(s), {run['machine']['device']}, "
        f"{run['precision']}"
        for run in figures["runs"]
    ]
    table = Table(title="; ".join(dict.fromkeys(titles)), title_justify="left")
    for column in COLUMNS:
        table.add_column(column, justify="right" if column not in ("algorithm", "what") else "left")
    for row in figures["results"]:
        if row["what"] != "budget":
            table.add_row(*_cells(row))
    return table


def _cells(row: Mapping[str, Any]) -> list[str]:
    def number(name: str, form: str, scale: float | int = 1.0) -> str:
        return format(row[name] * scale, form) if row.get(name) is not None else ""

    return [
        row["algorithm"],
        row["what"],
        str(row["lanes"]) if row["what"] != "act" else "",
        number("updates_per_second", ",.1f"),
        number("fraction_of_matmul_rate", ".2f"),
        number("times_one_lane", ".2f"),
        number("matmul_flops_per_update", ".2f", 1e-9),
        number("compile_seconds", ".1f"),
        number("candidates", "d", 1),
        number("milliseconds_p50", ".2f"),
        number("milliseconds_p99", ".2f"),
    ]


def settings_text(settings: Mapping[str, Any]) -> str:
    """`candidates 64, flow_steps 5`; empty where there are none."""
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def acting_table(rows: Iterable[Mapping[str, Any]], title: str) -> Table:
    """Rows of `bench_acting`; what a budget chose is marked."""
    table = Table(title=title, title_justify="left")
    for column in ("policy", "settings", "p50 ms", "p95 ms", "p99 ms", "compile s", ""):
        table.add_column(column, justify="left" if column in ("policy", "settings", "") else "right")
    found = list(rows)
    chosen = [(row["algorithm"], row["settings"]) for row in found if row["what"] == "budget" and row["met"]]
    for row in found:
        if row["what"] != "act":
            continue
        settings = settings_text(row["settings"])
        if not settings:
            settings = "its own" + (f": candidates {row['candidates']}" if row["candidates"] else "")
        times = [f"{row[f'milliseconds_{which}']:.3f}" for which in ("p50", "p95", "p99")]
        mark = "chosen" if (row["algorithm"], row["settings"]) in chosen else ""
        table.add_row(row["algorithm"], settings, *times, f"{row['compile_seconds']:.1f}", mark)
    return table
