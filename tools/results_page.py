"""docs/results.md, and the table of results in the README, from the committed results: `python tools/results_page.py`.

The registry is benchmarks/results/runs.json (tools/pack_results.py writes it); verdicts are those of `tether reproduce
--runs` on the unpacked run folders. tests/test_results.py checks that both texts are what this script would write.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

from tether.environments.names import is_single_task, without_version
from tether.errors import InputError
from tether.plots.markdown import markdown_table
from tether.studies.reproduce.bands import find_table
from tether.studies.reproduce.outcomes import Outcome, changes_of, outcome_of, run_for
from tether.studies.reproduce.targets import find_cells
from tools import pack_results

ROOT = Path(__file__).resolve().parents[1]
PAGE, README = ROOT / "docs" / "results.md", ROOT / "README.md"
BEGIN, END = "<!-- results: tools/results_page.py -->", "<!-- end of results -->"
# Whose table an algorithm is judged by.
TABLES = {"dtql": "dtql-table-1/DTQL", "dac": "dac-table-1/DAC", "bdpo": "bdpo-table-1/BDPO"}
CORL = {"bc": "BC", "td3-bc": "TD3+BC", "awac": "AWAC", "cql": "CQL", "iql": "IQL", "rebrac": "ReBRAC", "dt": "DT"}
PUBLISHED = {  # in the README: the numbers that papers usually put side by side
    **{name: ("dtql-table-1", label) for name, label in (("bc", "BC"), ("td3-bc", "TD3+BC"), ("iql", "IQL"))},
    **{name: ("dtql-table-1", label) for name, label in (("cql", "CQL"), ("dql", "DQL"), ("idql", "IDQL"))},
    "rebrac": ("corl-locomotion", "ReBRAC"),
}
STUDIES = {"halfcheetah-medium": "compare-halfcheetah-medium-100k", "hopper-medium": "compare-hopper-medium-100k"}
INTRODUCTION = (
    "# Results\n\n"
    "Written by `tools/results_page.py` from the committed runs "
    "([`benchmarks/results`](../benchmarks/README.md#learning)); every row's raw curves, configuration and command are "
    "in its table there. A score is the interquartile mean over seeds and the episodes of the last evaluation, with "
    "its 95 % bootstrap interval; of success rates it is their mean. The verdict is [`tether reproduce`]"
    "(reproduce.md)'s, on the mean; data named like "
    "D4RL's without a version are **not D4RL's files**, and most runs are far shorter than the published ones, which "
    "the verdict says.\n"
)


def registry() -> list[dict[str, Any]]:
    """Every committed run."""
    return json.loads((pack_results.RESULTS / "runs.json").read_text(encoding="utf-8"))


def outcome(run: dict[str, Any], folder: Path) -> Outcome | None:
    """The verdict on a run; None where nothing is published of its method on its task."""
    name, data, preset = run["algorithm"], str(run["dataset"]), run["protocol"].get("preset")
    if preset is None:
        return None
    if is_single_task(data):
        targets = [f"ogbench-qc/{data}/{method}" for method in find_table("ogbench-qc").methods]
    else:
        table = TABLES.get(name) or (f"corl-locomotion/{CORL[name]}" if name in CORL else None)
        targets = [f"{table}/{preset}"] if table and data in (preset, without_version(preset)) else []
    try:
        cells = [cell for target in targets for cell in find_cells(target) if not cell.obstacle]
        place = folder / run["run"]
        return outcome_of(run_for(cells, place), place) if cells else None
    except InputError:  # no such task or method in the table
        return None


def rows() -> list[list[str]]:
    """The registry as cells, with verdicts."""
    lines = []
    for study in dict.fromkeys(run["study"] for run in registry()):
        with tempfile.TemporaryDirectory() as name:
            pack_results.unpack(study, Path(name))
            for run in (run for run in registry() if run["study"] == study):
                lines.append(_row(run, outcome(run, Path(name)), Path(name) / run["run"]))
    return lines


def _row(run: dict[str, Any], found: Outcome | None, folder: Path) -> list[str]:
    data = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("data", {})
    source = f"{run['dataset']}, {data['rows']:,} rows" if "rows" in data else str(run["dataset"])
    score = "-"
    if run.get("iqm") is not None:
        low, high = run["ci95"]
        score = f"{run['iqm']:.1f} [{low:.1f}, {high:.1f}]"
    updates = f"{run['updates']:,}" if run.get("updates") else run["status"]
    published = "-" if found is None or found.published is None else f"{found.published:g}"
    verdict = "-" if found is None else f"{found.verdict.word}: {found.verdict.reason}"
    changed = [] if found is None or found.run is None else changes_of(found.cell, found.config)
    verdict += f"; **not the published setting**: {', '.join(changed)}" if changed else ""
    name, protocol = run["run"].rpartition("/")[2], run["protocol"]
    method = " ".join([run["algorithm"], *(f"--{option} {n}" for option, n in protocol.get("framing", {}).items())])
    method += f", online from {protocol['online_from']:,}" if "online_from" in protocol else ""
    return [name, method, source, updates, str(run["seeds"]), score, published, verdict]


def page() -> str:
    """docs/results.md."""
    heads = ["run", "method", "data", "updates", "seeds", "score", "published", "verdict"]
    parts = [INTRODUCTION, markdown_table(heads, rows()) + "\n"]
    parts.append("## Protocol and commands\n")
    lines = []
    for run in registry():
        protocol, versions = run["protocol"], run["versions"]
        used = ", ".join(f"{name} {versions[name]}" for name in ("tether", "jax", "mujoco") if name in versions)
        how = f"{protocol['eval_episodes']} episodes, {protocol['precision']}, {protocol['score']}"
        speed = f", {run['updates_per_second']:,.1f} updates/s" if run.get("updates_per_second") else ""
        command = run["command"] or "-"
        name, commit = run["run"].rpartition("/")[2], (run.get("commit") or "-")[:10]
        lines.append([name, f"`{command}`", how, f"{run['machine']}{speed}", used, commit])
    parts.append(markdown_table(["run", "command", "evaluated", "machine", "versions", "commit"], lines) + "\n")
    return "\n".join(parts)


def readme_table() -> str:
    """The table of the README: two comparisons beside what is published."""
    known = registry()
    heads = [""]
    for data in STUDIES:
        heads += [f"{data}, here", "published"]
    lines = [["the data"], *([name] for name in PUBLISHED)]
    for data, study in STUDIES.items():
        runs = {run["algorithm"]: run for run in known if run["study"] == study}
        lines[0] += [f"{next(iter(runs.values()))['behaviour']['mean']:.1f}", ""]
        for line, (name, (table, label)) in zip(lines[1:], PUBLISHED.items(), strict=True):
            (number,) = find_table(table).find(f"{data}-v2", label)
            line += [f"{runs[name]['last']['mean']:.1f}", f"{number.value:.1f}"]
    return markdown_table(heads, lines)


def readme() -> str:
    """README.md with the table in its place."""
    text = README.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n\n{readme_table()}\n\n{END}{rest.split(END)[1]}"


def main() -> None:
    """Write both."""
    PAGE.write_text(page(), encoding="utf-8")
    README.write_text(readme(), encoding="utf-8")


if __name__ == "__main__":
    main()
