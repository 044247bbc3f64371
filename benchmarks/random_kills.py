"""Kill commands at random moments, go on with them, and compare what they leave with what an undisturbed one leaves.

    python benchmarks/random_kills.py --kills 200 --out kills.jsonl

Commands are tiny, so that a kill may hit any part of them: imports, the first file, compiling, rows, checkpoints,
evaluations, reports. Each is killed one to three times (SIGKILL; the process alone, or all that it began), then the
command that goes on is let through. Every file that must not depend on interruptions has to have the same bytes.
Commands begin as forks of this process, which has imported tether but computed nothing: that takes the time of most.
"""

import argparse
import collections
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

SIZES = ["hidden_sizes=8,8", "denoiser_hidden_sizes=8,8", "candidates=4"]
TRAIN = ["--updates", "300", "--pretrain-updates", "100", "--batch-size", "16", "--eval-episodes", "1", "--quiet"]
TRAIN += ["--eval-every-updates", "100", "--log-every-updates", "50", "--environment", "Pendulum-v1"]
COLLECT = ["--checkpoint-at=-1e9", "--kinds", "full-replay", "medium", "--steps", "1200", "--rows", "600", "--quiet"]
COLLECT += ["--batch-size", "16", "--random-steps", "200", "--eval-every-steps", "300", "--eval-episodes", "1"]
COLLECT += ["--horizon", "100", "--set", "hidden_sizes=8,8"]
SPEC = """
algorithms = ["bc"]
datasets = ["{data}"]
seeds = 2
lanes_per_job = 1
retries = 9
[options]
updates = 200
batch_size = 16
eval_episodes = 1
eval_every_updates = 100
environment = "Pendulum-v1"
[set]
hidden_sizes = [8, 8]
"""


class Case(NamedTuple):
    """A command that is killed."""

    command: Callable[[Path], list[str]]  # what begins or goes on in this folder
    outcome: Callable[[Path], list[Path]]  # the files that must be the same


def main() -> None:
    """Kill, go on, compare, count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("kills.jsonl"))
    parser.add_argument("--most-seconds", type=float, default=60.0, help="after which a command is killed")
    parser.add_argument("--verbs", nargs="*", help="some of the cases")
    options = parser.parse_args()
    choice, root = random.Random(options.seed), Path(tempfile.mkdtemp(prefix="tether-kills-"))
    cases = {name: case for name, case in make_cases(root).items() if name in (options.verbs or name)}
    expected, seconds = {}, {}
    for name, case in cases.items():
        let_through(case.command(root / "first" / name))  # compiles
        started = time.monotonic()
        let_through(case.command(root / "whole" / name))
        seconds[name] = min(time.monotonic() - started, options.most_seconds)
        expected[name] = digests(case, root / "whole" / name)
        print(f"{name}: {len(expected[name])} files, {seconds[name]:.1f} s", flush=True)
    counts: collections.Counter[str] = collections.Counter()
    while counts["kills"] < options.kills:
        name = choice.choice(list(cases))
        folder = root / f"{name}-{counts['kills']}"
        row = attack(name, cases[name], folder, seconds[name], expected[name], choice)
        counts.update({"kills": row["kills"], "same": int(row["same"]), "different": int(not row["same"])})
        with options.out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(
            f"{counts['kills']} kills, {counts['same']} commands ended the same, {counts['different']} not: {row}",
            flush=True,
        )
        if row["same"]:
            shutil.rmtree(folder)
    sys.exit(1 if counts["different"] else 0)


def attack(
    name: str, case: Case, folder: Path, seconds: float, expected: dict[str, str], choice: random.Random
) -> dict[str, Any]:
    """One command, killed and let through."""
    folder.parent.mkdir(exist_ok=True, parents=True)
    row: dict[str, Any] = {"case": name, "kills": 0, "after_seconds": [], "alone": []}
    for _ in range(choice.choice([1, 1, 2, 3])):
        after, alone = choice.uniform(0.0, seconds), choice.random() < 0.5
        if killed(case.command(folder), after, alone):
            row["kills"] += 1
            row["after_seconds"].append(round(after, 3))
            row["alone"].append(alone)
    row["code"] = let_through(case.command(folder), strict=False)
    found = digests(case, folder)
    row["same"] = row["code"] == 0 and found == expected
    if not row["same"]:
        row["differing"] = sorted(key for key in found.keys() | expected.keys() if found.get(key) != expected.get(key))
        row["folder"] = str(folder)
    return row


def make_cases(root: Path) -> dict[str, Case]:
    """The commands, and the data that they need."""
    import numpy as np

    random_ = np.random.default_rng(0)
    log = root / "log.csv"
    rows = random_.uniform(-1, 1, (30_000, 5)).round(4)
    ends = (np.arange(len(rows)) % 100 == 99).astype(int)
    text = "".join(",".join(map(str, [*row, end])) + "\n" for row, end in zip(rows.tolist(), ends, strict=True))
    log.write_text("c,s,v,u,r,end\n" + text)
    words = ["--observation", "c", "s", "v", "--action", "u", "--reward", "r", "--truncated", "end", "--out"]
    importing = ["data", "import", str(log), *words]
    data = root / "set.hdf5"
    let_through([*importing, str(data)])
    spec = root / "spec.toml"
    spec.write_text(SPEC.format(data=data))

    def training(workers: int) -> Callable[[Path], list[str]]:
        def command(folder: Path) -> list[str]:
            if (folder / "config.json").exists():
                return ["resume", str(folder), "--quiet", "--eval-workers", str(workers)]
            how = [*TRAIN, "--seeds", "2", "--eval-workers", str(workers), "--set", *SIZES]
            return ["train", "dtql", str(data), *how, "--out", str(folder)]

        return command

    def of_runs(folder: Path) -> list[Path]:
        names = ("metrics.jsonl", "evaluations.jsonl", "policy.safetensors", "state.safetensors")
        return [path for name in names for path in folder.rglob(name)]

    compared = ["--data", str(data), "--algorithms", "bc,td3-bc", "--seeds", "2", "--updates", "200", "--quiet"]
    compared += [
        "--eval-episodes",
        "1",
        "--batch-size",
        "16",
        "--environment",
        "Pendulum-v1",
        "--set",
        "hidden_sizes=8,8",
    ]
    broken = root / "broken.hdf5"
    _break(data, broken)
    fixing = ["data", "check", str(broken), "--quiet"]
    return {
        "train": Case(training(0), of_runs),
        "train, 1 worker": Case(training(1), of_runs),
        "compare": Case(lambda folder: ["compare", *compared, "--out", str(folder)], of_runs),
        "sweep": Case(lambda folder: ["sweep", str(spec), "--local", "--quiet", "--out", str(folder)], of_runs),
        "collect": Case(
            lambda folder: ["data", "collect", "Pendulum-v1", *COLLECT, "--out", str(folder)],
            lambda folder: [*folder.rglob("policy.safetensors"), *folder.glob("*.hdf5")],
        ),
        "import": Case(lambda folder: made(folder, importing), lambda folder: list(folder.glob("*.hdf5"))),
        "fix": Case(
            lambda folder: made(folder, [*fixing, "--out", str(folder / "report"), "--fix"]),
            lambda folder: list(folder.glob("*.hdf5")),
        ),
    }


def made(folder: Path, command: list[str]) -> list[str]:
    """A command that makes one file; done if that is there."""
    folder.mkdir(parents=True, exist_ok=True)
    done = (folder / "set.hdf5").exists()
    return ["--version"] if done else [*command, str(folder / "set.hdf5")]


def _break(source: Path, target: Path) -> None:
    """Data with faults that can be repaired."""
    import h5py
    import numpy as np

    shutil.copy(source, target)
    with h5py.File(target, "r+") as file:
        file["rewards"][[5, 500]] = np.nan  # pyright: ignore[reportIndexIssue]


def begin(command: list[str]) -> int:
    """Fork a process that runs the command in a session of its own -> its number."""
    if process := os.fork():
        return process
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1):
        os.dup2(null, stream)
    from tether import cli

    try:
        cli.main(command)
    except SystemExit as end:
        sys.stderr.flush()
        os._exit(end.code if isinstance(end.code, int) else 1)
    finally:
        os._exit(70)


def let_through(command: list[str], strict: bool = True) -> int:
    """Run a command to its end -> its exit code; `data check` may say 1."""
    _, status = os.waitpid(begin(command), 0)
    code = os.waitstatus_to_exitcode(status)
    code = 0 if code == 1 and command[:2] == ["data", "check"] else code
    if strict and code:
        raise RuntimeError(f"{' '.join(command)} ended with {code}")
    return code


def killed(command: list[str], after: float, alone: bool) -> bool:
    """Kill the command after so many seconds -> whether it was still at work."""
    process, deadline = begin(command), time.monotonic() + after
    while time.monotonic() < deadline:
        if os.waitpid(process, os.WNOHANG)[0]:
            return False
        time.sleep(0.002)
    for victim in [process] if alone else session(process):
        try:
            os.kill(victim, signal.SIGKILL)
        except ProcessLookupError:
            continue
    return os.WIFSIGNALED(os.waitpid(process, 0)[1])


def session(leader: int) -> list[int]:
    """All processes of a session, the leader last."""
    members = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            fields = (path / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == leader and int(path.name) != leader:
            members.append(int(path.name))
    return [*members, leader]


def digests(case: Case, folder: Path) -> dict[str, str]:
    """Path -> hash of the content; of HDF5 that of its arrays, as a file says which command made it."""
    found = {}
    for path in case.outcome(folder):
        if path.suffix == ".hdf5":
            import h5py

            sha256 = hashlib.sha256()
            with h5py.File(path) as file:
                file.visititems(lambda name, item: _add(sha256, name, item))  # noqa: B023
            found[str(path.relative_to(folder))] = sha256.hexdigest()
        elif "checkpoints" not in path.parts or path.parent == max(path.parent.parent.glob("train-*")):
            found[str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def _add(sha256: Any, name: str, item: Any) -> None:
    if hasattr(item, "shape") and not name.startswith("metadata"):
        sha256.update(name.encode())
        sha256.update(item[()].tobytes() if item.shape else str(item[()]).encode() if "collect" not in name else b"")


if __name__ == "__main__":
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    import tether.api
    import tether.cli
    import tether.collect
    import tether.doctor
    import tether.studies.compare  # noqa: F401

    main()
