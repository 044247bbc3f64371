"""Seeded damage to every kind of file that tether reads, and what must hold whatever it is: one line, or a result.

`python tests/fuzz.py` does 2,000 mutations (`--count`), each in turn on a copy of a whole subject, in processes that
are started again where one is killed by a fault; it prints a row for each kind of subject and every violation.
tests/test_hostile.py does a few of each.
"""

import argparse
import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

SECONDS, BYTES = 10.0, 10**9  # processor time and memory that a command may take
NONSENSE = [
    *(-1, 0, 3.0, "3", 1e12, 1e30, 10**12, 10**399, 0.5, 1e999, True, None, [], {}, "", "x" * 3000, "ä\0"),
    *([[1, 2], [3]], {"a": {"b": 1}}, [256] * 20_000, 2**63, -(2**63), "nan", "/dev/zero", "../../x"),
]
"""What a hand may have written in the place of a value of JSON."""
EXTREMES = [2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**64 - 1, 400_000_000]


class Subject(NamedTuple):
    """A kind of file or folder."""

    make: Callable[[Path], Path]  # in an empty folder -> what is given to tether
    commands: tuple[tuple[str, ...], ...]  # with {} for that, and {out} for a path that is not there
    damaged: Callable[[Path], list[Path]]  # its files, one of which is damaged
    writes: bool = False  # whether a command may change the subject where it ends with 0


# --- subjects -----------------------------------------------------------------------------------------------

OLD = Path(__file__).parent / "fixtures" / "written_by_0_1_0"
READ = (("data", "show", "{}"), ("data", "check", "{}", "--out", "{out}", "--quiet"))
IMPORT = ("data", "import", "{}", "--observation", "observation*", "--action", "action*", "--episode", "none")
ARRAYS = (*READ, (*IMPORT, "--reward", "rewards", "--out", "{out}.hdf5"))
TABLE = (*READ, (*IMPORT, "--reward", "reward", "--out", "{out}.hdf5"))


def columns() -> dict[str, np.ndarray]:
    """A small data set."""
    generator = np.random.default_rng(3)
    return {
        "observations": generator.normal(size=(60, 4)).astype(np.float32),
        "actions": np.tanh(generator.normal(size=(60, 2))).astype(np.float32),
        "rewards": generator.normal(size=60).astype(np.float32),
        "terminals": np.arange(60) % 20 == 19,
        "timeouts": np.arange(60) % 30 == 29,
    }


def _hdf5(folder: Path) -> Path:
    import h5py

    path = folder / "data.hdf5"
    with h5py.File(path, "w") as file:
        for name, column in columns().items():
            file.create_dataset(name, data=column, compression="gzip" if name == "actions" else None)
        file["metadata/algorithm"] = "sac"
        file.attrs["seed"] = 3
    return path


def _episodes(folder: Path) -> Path:
    import h5py

    path = folder / "demonstrations.hdf5"
    with h5py.File(path, "w") as file:
        for number in range(3):
            for name, column in columns().items():
                file[f"data/demo_{number}/{name}"] = column[number * 20 : number * 20 + 20]
    return path


def _npz(folder: Path) -> Path:
    path = folder / "data.npz"
    np.savez(path, **columns())  # pyright: ignore[reportArgumentType]
    return path


def _packed_npz(folder: Path) -> Path:
    path = folder / "data.npz"
    np.savez_compressed(path, **columns())  # pyright: ignore[reportArgumentType]
    return path


def _named() -> dict[str, np.ndarray]:
    """One number in each column."""
    flat = {}
    for name, column in columns().items():
        if column.ndim == 2:
            flat |= {f"{name[:-1]}_{index}": column[:, index] for index in range(column.shape[1])}
        else:
            flat[name[:-1]] = column
    return flat


def _csv(folder: Path) -> Path:
    path, flat = folder / "data.csv", _named()
    rows = zip(*(column.astype(float).tolist() for column in flat.values()), strict=True)
    lines = [",".join(flat), *(",".join(f"{value:.6g}" for value in row) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def _parquet(folder: Path) -> Path:
    import pyarrow
    from pyarrow import parquet

    path = folder / "data.parquet"
    parquet.write_table(pyarrow.table(_named()), path)
    return path


def _minari(folder: Path) -> Path:
    import h5py

    target = folder / "door"
    (target / "data").mkdir(parents=True)
    data = columns()
    with h5py.File(target / "data" / "main_data.hdf5", "w") as file:
        for number in range(3):
            rows = slice(20 * number, 20 * number + 20)
            group = file.create_group(f"episode_{number}")
            group["observations"] = np.concatenate([data["observations"][rows], data["observations"][rows][:1]])
            group["actions"], group["rewards"] = data["actions"][rows], data["rewards"][rows]
            group["terminations"], group["truncations"] = data["terminals"][rows], data["timeouts"][rows]
    space = {"type": "Box", "low": [-1.0, -1.0], "high": [1.0, 1.0], "shape": [2]}
    spec = {"id": "Pendulum-v1", "kwargs": {}, "max_episode_steps": 20}
    document = {"dataset_id": "door-v1", "action_space": json.dumps(space), "env_spec": json.dumps(spec)}
    document |= {"total_episodes": 3, "total_steps": 60, "ref_min_score": 0.0, "ref_max_score": 9.0}
    (target / "data" / "metadata.json").write_text(json.dumps(document))
    return target


def _lerobot(folder: Path) -> Path:
    import pyarrow
    from pyarrow import parquet

    target = folder / "arm"
    (target / "meta").mkdir(parents=True)
    (target / "data" / "chunk-000").mkdir(parents=True)
    data, feature = columns(), {"dtype": "float32", "names": None}
    single = {name: {"dtype": "int64", "shape": [1]} for name in ("episode_index", "frame_index")}
    features = {
        "observation.state": feature | {"shape": [4]},
        "action": feature | {"shape": [2]},
        "next.reward": feature | {"shape": [1]},
        **single,
    }
    info = {"codebase_version": "v2.1", "fps": 10, "features": features, "splits": {"train": "0:2"}}
    (target / "meta" / "info.json").write_text(json.dumps(info))
    lines = [json.dumps({"episode_index": number, "length": 20}) for number in range(3)]
    (target / "meta" / "episodes.jsonl").write_text("\n".join(lines))
    table = {
        "observation.state": data["observations"].tolist(),
        "action": data["actions"].tolist(),
        "next.reward": data["rewards"],
        "episode_index": np.arange(60) // 20,
        "frame_index": np.arange(60) % 20,
    }
    parquet.write_table(pyarrow.table(table), target / "data" / "chunk-000" / "episode_000000.parquet")
    return target


def _copy_of(name: str) -> Callable[[Path], Path]:
    return lambda folder: Path(shutil.copytree(OLD / name, folder / Path(name).name))


def _itself(path: Path) -> list[Path]:
    return [path]


def _every_file(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _some(*patterns: str) -> Callable[[Path], list[Path]]:
    return lambda folder: [path for pattern in patterns for path in sorted(folder.glob(pattern))]


ACT = (("policy", "{}"),)  # no verb: `load_policy`
PLAY = ("evaluate", "{}", "--episodes", "1", "--quiet")
SUBJECTS = {
    "hdf5": Subject(_hdf5, ARRAYS, _itself),
    "episodes": Subject(_episodes, READ, _itself),
    "npz": Subject(_npz, ARRAYS, _itself),
    "packed-npz": Subject(_packed_npz, ARRAYS, _itself),
    "csv": Subject(_csv, TABLE, _itself),
    "parquet": Subject(_parquet, TABLE, _itself),
    "minari": Subject(_minari, READ, _every_file),
    "lerobot": Subject(_lerobot, READ, _every_file),
    "policy": Subject(_copy_of("policies/dtql"), ACT, _every_file),
    "checkpoint": Subject(_copy_of("stopped/awac"), (("restore", "{}"),), _some("checkpoints/*/*"), writes=True),
    "run": Subject(_copy_of("stopped/awac"), (("restore", "{}"),), _some("*.json"), writes=True),
}
WEIGHTS = {"hdf5": 3, "policy": 2, "run": 2}  # times as many mutations


# --- damage -------------------------------------------------------------------------------------------------


def damage(data: bytes, generator: np.random.Generator) -> bytes:
    """One or a few of the things that disks, transfers and people do to bytes."""
    content = bytearray(data)
    for _ in range(int(generator.integers(1, 4))):
        size = len(content)
        place, length = int(generator.integers(0, max(1, size))), int(generator.integers(1, 64))
        match int(generator.integers(0, 8)):
            case 0:  # a few bits
                for at in generator.integers(0, max(1, size), 4).tolist():
                    if at < size:
                        content[at] ^= 1 << int(generator.integers(0, 8))
            case 1:
                content[place : place + length] = generator.bytes(length)
            case 2:
                content[place : place + length] = bytes(length)
            case 3:
                content[place : place + length] = b"\xff" * length
            case 4:
                del content[place:]
            case 5:
                del content[place : place + length]
            case 6:
                content[place:place] = content[max(0, place - length) : place]
            case _:  # a size, an offset, a count
                number, width = EXTREMES[int(generator.integers(len(EXTREMES)))], int(generator.choice([2, 4, 8]))
                content[place : place + width] = (number % 256**width).to_bytes(width, "little")
    return bytes(content)


def damage_json(data: bytes, generator: np.random.Generator) -> bytes:
    """Some of the values of a JSON document replaced by nonsense, or an entry left out."""
    document = json.loads(data)
    for _ in range(int(generator.integers(1, 3))):
        places = list(_places(document))
        if not places:
            break
        holder, key = places[int(generator.integers(len(places)))]
        if generator.random() < 0.15:
            del holder[key]
        else:
            holder[key] = NONSENSE[int(generator.integers(len(NONSENSE)))]
    text = json.dumps(document)
    if generator.random() < 0.05:
        text = "[" * 100_000 + text
    return text.encode()


def damage_npz(data: bytes, generator: np.random.Generator) -> bytes:
    """An array within the archive, whose checksums are right again."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = {info.filename: archive.read(info) for info in archive.infolist()}
        compression = archive.infolist()[0].compress_type
    name = list(entries)[int(generator.integers(len(entries)))]
    head, rest = entries[name][:128], entries[name][128:]  # most of what may go wrong stands in its first bytes
    entries[name] = damage(head, generator) + rest if generator.random() < 0.7 else damage(head + rest, generator)
    with zipfile.ZipFile(out := io.BytesIO(), "w", compression) as archive:
        for entry, content in entries.items():
            archive.writestr(entry, content)
    return out.getvalue()


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield value, key
        yield from _places(item)


def seal(path: Path) -> None:
    """The hash that a policy's document states of itself made right, as an attacker would."""
    from tether.policies.document import document_hash

    with contextlib.suppress(ValueError, AttributeError, TypeError, RecursionError, OverflowError):
        document = json.loads(path.read_bytes())
        document.pop("document_sha256", None)
        document["document_sha256"] = document_hash(document)
        path.write_text(json.dumps(document))


# --- one mutation -------------------------------------------------------------------------------------------


class Outcome(NamedTuple):
    """What came of a mutation; `fault` is empty where all is as it must be."""

    codes: list[int]
    fault: str
    seconds: float
    bytes: int


def attack(name: str, seed: int, folder: Path, quick: bool = False) -> Outcome:
    """Damages one file of a subject in the empty `folder` and lets tether read it. quick: without `data check`."""
    subject, generator = SUBJECTS[name], np.random.default_rng([seed, *name.encode()])
    given = subject.make(folder)
    files = subject.damaged(given)
    path = files[int(generator.integers(len(files)))]
    structured = {".json": damage_json, ".npz": damage_npz}.get(path.suffix, damage)
    how = structured if generator.random() < 0.8 else damage
    path.write_bytes(how(path.read_bytes(), generator))
    if path.name == "policy.json" and generator.random() < 0.9:
        seal(path)
    before, codes, worst, most = _digests(folder), [], 0.0, 0
    for command in subject.commands:
        if quick and command[:2] == ("data", "check"):
            continue
        out = folder / "out"
        words = [word.replace("{out}", str(out)).replace("{}", str(given)) for word in command]
        code, errors, seconds, size = run(words)
        codes, worst, most = [*codes, code], max(worst, seconds), max(most, size)
        fault = _fault(words, code, errors, seconds, size)
        for left in folder.glob("out*"):
            if code == 2:
                fault = fault or f"{left.name} is left"
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        if not fault and _digests(folder) != before and not (subject.writes and code == 0):
            fault = "something is written"
        if fault:
            return Outcome(codes, f"{name} {seed} ({path.name}): {' '.join(words[:2])}: {fault}", worst, most)
    return Outcome(codes, "", worst, most)


def _fault(words: list[str], code: int, errors: str, seconds: float, size: int) -> str:
    """What is wrong with the end of a command. `data check` ends with 1 where it has found errors in the data."""
    if "Traceback" in errors:
        return f"a traceback: {errors.strip().splitlines()[-1][:300]}"
    verdict = words[:2] == ["data", "check"] and code == 1 and "tether: error" not in errors
    if code not in (0, 2) and not verdict:
        return f"exit code {code}: {errors[-300:]}"
    if code == 2 and not re.fullmatch(r"tether: error: [^\n]{1,3000}\n", errors):
        return f"not one line: {errors[:600]!r}"
    if seconds > SECONDS:
        return f"{seconds:.1f} seconds"
    return f"{size / 1e6:.0f} MB" if size > BYTES else ""


def _digests(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith("out")]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def run(words: list[str]) -> tuple[int, str, float, int]:
    """(exit code, stderr, processor seconds, bytes that memory grew by at most) of a command in this process."""
    import traceback

    before, started = _forget_peak(), time.process_time()
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            _call(words)
        except SystemExit as end:
            code = int(end.code or 0)
        except BaseException:
            code = 1
            traceback.print_exc()
    return code, err.getvalue(), time.process_time() - started, max(0, _peak() - before)


def _call(words: list[str]) -> None:
    """The command line; `policy` and `restore` are what `evaluate` and `resume` do before they play and train."""
    from tether import InputError, cli, load_policy
    from tether.runs.config import restored_plan
    from tether.runs.records import Display
    from tether.runs.run import Run

    if words[0] not in ("policy", "restore"):
        cli.main(words)
    try:
        if words[0] == "policy":
            load_policy(words[1])
        else:
            Run(restored_plan(Path(words[1]), quiet=True), Display(quiet=True)).restore()
    except InputError as error:
        sys.stderr.write(f"tether: error: {error}\n")
        sys.exit(2)


def _forget_peak() -> int:
    """Bytes that this process has, from where its peak is counted anew."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM")


def _status(name: str) -> int:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
    return 0


# --- many ---------------------------------------------------------------------------------------------------


def plan(count: int) -> list[tuple[str, int]]:
    """(subject, seed) of `count` mutations."""
    names = [name for name in SUBJECTS for _ in range(WEIGHTS.get(name, 1))]
    return [(names[number % len(names)], number) for number in range(count)]


def _serve(start: int, count: int) -> None:
    """The mutations from `start` on, a line of JSON for each."""
    from tether.machine.cache import use_compilation_cache

    use_compilation_cache()
    out = sys.stdout
    for name, seed in plan(count)[start:]:
        with tempfile.TemporaryDirectory(prefix="tether-fuzz-") as folder:
            found = attack(name, seed, Path(folder))
        out.write(json.dumps([name, seed, *found]) + "\n")
        out.flush()


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """All of them; 1 if there is a violation."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--serve", action="store_true", help="in this process, as JSON")
    asked = parser.parse_args(arguments)
    if asked.serve:
        _serve(asked.start, asked.count)
        return 0
    rows: list[list[Any]] = []
    faults: list[str] = []
    position = asked.start
    while position < asked.count:
        words = [sys.executable, __file__, "--serve", "--start", str(position), "--count", str(asked.count)]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                rows.append(json.loads(line))
                position += 1
                if rows[-1][3]:
                    faults.append(rows[-1][3])
                    _say(faults[-1])
        if position < asked.count:
            faults.append(f"{plan(asked.count)[position]}: the process ended with {process.returncode}")
            _say(faults[-1])
            position += 1
    for name in SUBJECTS:
        own = [row for row in rows if row[0] == name]
        codes = [code for row in own for code in row[2]]
        counts = ", ".join(f"{codes.count(code)} x {code}" for code in sorted(set(codes)))
        slowest, largest = (max((row[at] for row in own), default=0) for at in (4, 5))
        _say(f"{name:12} {len(own):5} mutations  exits {counts:40} {slowest:5.1f} s  {largest / 1e6:6.0f} MB")
    _say(f"{len(faults)} violations in {position - asked.start} mutations")
    return 1 if faults else 0


if __name__ == "__main__":
    os.environ.setdefault("TETHER_CORES", "2")
    sys.exit(main())
