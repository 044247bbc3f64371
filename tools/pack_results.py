"""Finished run folders as they are committed: one compressed table per study, and a summary that people can read.

python tools/pack_results.py STUDY FOLDER...           into benchmarks/results: STUDY.jsonl.gz, rows of runs.json
python tools/pack_results.py STUDY --unpack FOLDER     the run folders again

A row of the table is {"run": folder's name, "file": its file, "row": a line of it, or all of a .json file}. All runs
below a FOLDER are taken, and what else lies there (a comparison's numbers). Pictures are left out: docs/images.
"""

import argparse
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tether.studies.reproduce.study import reproduce_command

RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results"
SUMMARY = (
    "algorithm",
    "dataset",
    "status",
    "iqm",
    "ci95",
    "behaviour",
    "last",
    "best",
    "updates",
    "updates_per_second",
)
LINES = ".jsonl"


def rows_of(folder: Path) -> Iterator[dict[str, Any]]:
    """Every JSON document and line below the folder."""
    for path in sorted(folder.rglob("*.json*")):
        where = {"run": path.parent.relative_to(folder.parent).as_posix(), "file": path.name}
        text = path.read_text(encoding="utf-8")
        for document in text.splitlines() if path.suffix == LINES else [text]:
            yield where | {"row": json.loads(document)}


def summary_of(study: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What runs.json says of each run of a study: the command, and result.json without its single episodes."""
    documents: dict[str, dict[str, Any]] = {}
    commands: dict[str, str] = {}  # study folder -> what made its runs
    for row in rows:
        if row["file"] == "reproduce.json":
            commands[row["run"]] = reproduce_command(row["row"]["options"], folders=False)
        if row["file"] in ("config.json", "result.json"):
            documents.setdefault(row["run"], {})[row["file"]] = row["row"]
    summaries = []
    for run, files in documents.items():
        config, result = files.get("config.json", {}), files.get("result.json", {"status": "stopped"})
        command = config.get("notes", {}).get("command") or commands.get(run.partition("/")[0])
        summaries.append(
            {"study": study, "run": run, "command": command}
            | {name: config[name] for name in ("algorithm", "commit") if name in config}
            | {"dataset": config.get("data", {}).get("dataset")}
            | {name: result[name] for name in SUMMARY if name in result}
            | {"seeds": len(result.get("lanes", config.get("lanes", [])))}
            | _circumstances(config)
        )
    return summaries


def _circumstances(config: dict[str, Any]) -> dict[str, Any]:
    """Under which a run was made: what a score cannot be read without."""
    settings, notes = config.get("settings", {}), config.get("notes", {})
    protocol = {
        "preset": notes.get("preset"),
        "environment": config.get("environment"),
        "score": config.get("score") or "normalised score",
        "batch_size": settings.get("batch_size"),
        "eval_episodes": settings.get("eval_episodes"),
        "precision": settings.get("precision", "float32"),
        "data_sha256": config.get("data", {}).get("sha256"),
    }
    framing = {name: n for name, n in config.get("data", {}).get("framing", {}).items() if n not in (None, False, 1)}
    protocol |= {"framing": framing} if framing else {}
    if parent := (config.get("finetuning") or {}).get("parent"):
        protocol["online_from"] = parent["update"]
    machine = f"{config.get('device', 'unknown')} x {config.get('devices') or 1}"
    return {"protocol": protocol, "versions": config.get("versions", {}), "machine": machine}


def read(table: Path) -> list[dict[str, Any]]:
    """The rows of a study's table."""
    with gzip.open(table, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def pack(study: str, folders: list[Path]) -> Path:
    """Write the study's table and its rows of runs.json -> the table."""
    rows = [row for folder in folders for row in rows_of(folder)]
    table = RESULTS / f"{study}.jsonl.gz"
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    table.write_bytes(gzip.compress(lines.encode(), mtime=0))  # the same bytes for the same rows
    known = RESULTS / "runs.json"
    others = json.loads(known.read_text(encoding="utf-8")) if known.exists() else []
    write_summary([run for run in others if run["study"] != study] + summary_of(study, rows))
    return table


def write_summary(runs: list[dict[str, Any]]) -> None:
    """runs.json, the registry of results: docs/results.md is made of it (tools/results_page.py)."""
    runs.sort(key=lambda run: (run["study"], run["run"]))
    (RESULTS / "runs.json").write_text(json.dumps(runs, indent=1) + "\n", encoding="utf-8")


def unpack(study: str, folder: Path) -> None:
    """The files of a study again, JSON documents indented as tether writes them."""
    texts: dict[Path, str] = {}
    for row in read(RESULTS / f"{study}.jsonl.gz"):
        path = folder / row["run"] / row["file"]
        indent = None if path.suffix == LINES else 2
        texts[path] = texts.get(path, "") + json.dumps(row["row"], indent=indent) + "\n"
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study")
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--unpack", type=Path)
    arguments = parser.parse_args()
    if arguments.unpack:
        unpack(arguments.study, arguments.unpack)
    else:
        pack(arguments.study, arguments.folders)


if __name__ == "__main__":
    main()
