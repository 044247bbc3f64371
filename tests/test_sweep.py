"""Sweeps: what a spec means, what is refused, and that no lane is lost whatever happens to the jobs."""

import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import filelock
import pytest
from make_data import PRETRAIN, TRAIN, data_file, digest, finished_run, rows, tether

import tether as package
from tether import InputError
from tether.studies.sweep import jobs as jobs_module
from tether.studies.sweep import load_spec, local
from tether.studies.sweep.jobs import SweepFolder, run_job
from tether.studies.sweep.slurm import write_script
from tether.studies.sweep.table import job_rows, write_table

SOURCE = str(Path(package.__file__).parents[1])

SPEC = """
algorithms = ["dtql", "bc"]
datasets = ["halfcheetah-medium-replay-small", "logs.csv"]
seeds = 3
lanes_per_job = 4

[options]
updates = 50
[set]
discount = 0.9
[grid]
batch_size = [32, 64]
[algorithm.bc]
set = { }
[algorithm.dtql.sweep]
expectile = [0.5, 0.7]
[algorithm.dtql.grid]
hidden_sizes = [[8, 8], "16,16"]
[resources]
gpus = 1
[slurm]
partition = "gpu"
array_limit = 2
"""


def write_spec(folder: Path, text: str) -> Path:
    path = folder / "spec.toml"
    path.write_text(text)
    return path


def tiny(**changes: Any) -> str:
    """Four seeds of the program that all tests share, two to a job."""
    entries = {"algorithms": ["dtql"], "datasets": [str(data_file())], "seeds": 4, "lanes_per_job": 2, **changes}
    head = "".join(f"{name} = {json.dumps(value)}\n" for name, value in entries.items())
    return f"""{head}
[options]
updates = {TRAIN}
pretrain_updates = {PRETRAIN}
batch_size = 32
eval_episodes = 2
eval_every_updates = 100
log_every_updates = 70
[set]
hidden_sizes = [16, 16]
denoiser_hidden_sizes = [16, 16]
candidates = 8
"""


# --- specs --------------------------------------------------------------------------------------------------


def test_a_spec_is_a_product_cut_into_programs(tmp_path: Path) -> None:
    text = SPEC.replace("[set]\ndiscount = 0.9\n", "").replace("set = { }", "set = { learning_rate = 1e-3 }")
    (tmp_path / "logs.csv").write_text("")
    spec = load_spec(write_spec(tmp_path, text))
    assert [job.number for job in spec.jobs] == list(range(len(spec.jobs)))
    assert len({job.name for job in spec.jobs}) == len(spec.jobs)
    dtql = [job for job in spec.jobs if job.algorithm == "dtql"]
    # 2 data sets x 2 batch sizes x 2 sizes, each of 3 seeds x 2 expectiles = 6 lanes in groups of 4
    assert [len(job.lanes) for job in dtql] == [4, 2] * 8
    assert len([job for job in spec.jobs if job.algorithm == "bc"]) == 2 * 2
    first, second = dtql[:2]
    assert [lane.seed for lane in (*first.lanes, *second.lanes)] == [0, 1, 2] * 2
    assert [lane.swept["expectile"] for lane in (*first.lanes, *second.lanes)] == [0.5] * 3 + [0.7] * 3
    algorithm, arguments, _ = dtql[-1].request().resolve()
    assert (algorithm.hidden_sizes, algorithm.train_updates) == ((16, 16), 50)
    assert arguments["options"].batch_size == 64
    assert dtql[-1].dataset == str(tmp_path / "logs.csv")  # found from anywhere
    assert (spec.retries, spec.resources, spec.slurm["partition"]) == (3, {"cpus": 1.0, "gpus": 1.0}, "gpu")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"dtql", "bc"', '"dqtl"', "unknown algorithm 'dqtl'; did you mean dql"),
        ("seeds = 3", "seads = 3", "unknown entry 'seads'; did you mean seeds"),
        ("seeds = 3", "update = 3", "unknown entry 'update'; did you mean updates, which stands below [options]"),
        ("seeds = 3", "seeds = 0", "seeds 0: must be a whole number, at least 1"),
        ("seeds = 3", "seeds = [1, 1]", "each may stand once"),
        ("lanes_per_job = 4", "lanes_per_job = 1.5", "lanes_per_job 1.5: must be a whole number"),
        ("updates = 50", "update = 50", "unknown option of tether train 'update'; did you mean updates"),
        ("updates = 50", "seeds = 50", "unknown option of tether train 'seeds'"),
        ("discount = 0.9", "discuont = 0.9", "unknown hyper-parameter of dtql 'discuont'; did you mean discount"),
        ("expectile = [0.5, 0.7]", "expectile = 0.5", "expectile 0.5: must be a list of values"),
        ("expectile = [0.5, 0.7]", 'expectile = ["high"]', "sweep expectile: needs numbers"),
        ("expectile = [0.5, 0.7]", "candidates = [5]", "dtql: 'candidates' changes the program's structure"),
        ("gpus = 1", "tpus = 1", "unknown resource 'tpus'"),
        ("gpus = 1", "gpus = -1", "resources gpus -1: must be a number, at least 0"),
        ("[options]", "[options", "not valid TOML"),
        ("datasets = [", "datasets = [1, ", "datasets: must be a list of names"),
        ("[algorithm.dtql.sweep]", "[algorithm.dtgl.sweep]", "unknown algorithm 'dtgl'"),
        (
            "[algorithm.dtql.sweep]",
            "[algorithm.dtql.sweeps]",
            "unknown part of [algorithm.dtql] 'sweeps'; did you",
        ),
        ("[algorithm.dtql.sweep]", "[algorithm.dql.sweep]", "unknown algorithm of this sweep 'dql'; did you mean dtql"),
        ("[algorithm.dtql.sweep]", "[algorithm]\niql = 3\n[sweep]", "unknown algorithm of this sweep 'iql'; did you"),
    ],
)
def test_refused_specs(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = SPEC.replace('"dtql", "bc"', '"dtql"').replace("[algorithm.bc]\nset = { }\n", "")
    path = write_spec(tmp_path, (SPEC if old not in text else text).replace(old, new, 1))
    with pytest.raises(InputError, match=message.replace("[", r"\[")) as caught:
        load_spec(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_folder_belongs_to_one_spec(tmp_path: Path) -> None:
    (tmp_path / "logs.csv").write_text("")
    spec = load_spec(write_spec(tmp_path, tiny(datasets=["logs.csv"])))
    SweepFolder.open(tmp_path / "out", spec)
    SweepFolder.open(tmp_path / "out", spec)
    stored = load_spec(tmp_path / "out" / "spec.toml")
    assert stored.jobs == spec.jobs  # data sets beside the spec are found from there, too
    other = load_spec(write_spec(tmp_path, tiny(seeds=5)))
    with pytest.raises(InputError, match="holds another sweep: of 2 jobs, not 3; name another"):
        SweepFolder.open(tmp_path / "out", other)
    longer = load_spec(write_spec(tmp_path, tiny(datasets=["logs.csv"]).replace("\nupdates = ", "\nupdates = 1")))
    with pytest.raises(InputError, match=r"in job \S+ updates \d+, not 1\d+; name another folder"):
        SweepFolder.open(tmp_path / "out", longer)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("")
    with pytest.raises(InputError, match="exists and holds no sweep"):
        SweepFolder.open(tmp_path / "full", spec)


@pytest.mark.parametrize("spelling", ["base =", '"base" =', "  base =", "'base'="])
def test_the_stored_spec_has_one_base(tmp_path: Path, spelling: str) -> None:
    """However the user spells it; a second one made the folder unreadable."""
    spec = load_spec(write_spec(tmp_path, f"{spelling} {json.dumps(str(tmp_path))}\n{tiny()}"))
    SweepFolder.open(tmp_path / "out", spec)
    assert load_spec(tmp_path / "out" / "spec.toml").jobs == spec.jobs
    SweepFolder.open(tmp_path / "out", spec)


def test_a_base_of_another_table_is_not_the_specs(tmp_path: Path) -> None:
    (tmp_path / "logs.csv").write_text("")
    spec = load_spec(write_spec(tmp_path, tiny(datasets=["logs.csv"]) + '[slurm]\nbase = "x"\n'))
    SweepFolder.open(tmp_path / "out", spec)
    assert load_spec(tmp_path / "out" / "spec.toml").jobs == spec.jobs


# --- the table ----------------------------------------------------------------------------------------------


def table_of(tmp_path: Path, text: str, scores: dict[int, float]) -> list[tuple[Any, ...]]:
    """(data set, settings, mean, finished, seeds) of each row, where these jobs came to these scores."""
    spec = load_spec(write_spec(tmp_path, text))
    folder = SweepFolder.open(tmp_path / "out", spec)
    for number, score in scores.items():
        job = spec.jobs[number]
        folder.run_folder(job).mkdir()
        lanes = [{"normalized_score": score, "diverged": None} for _ in job.lanes]
        result = {"lanes": lanes, "dataset": Path(job.dataset).stem, "status": "done"}
        (folder.run_folder(job) / "result.json").write_text(json.dumps(result))
    found, lanes = job_rows(folder)
    assert sum(row.seeds for row in found) == len(lanes)
    return [(row.dataset, row.settings, row.mean, row.finished, row.seeds) for row in found]


def test_data_sets_of_one_name_have_rows_of_their_own(tmp_path: Path) -> None:
    for plant in ("a", "b"):
        (tmp_path / f"plant-{plant}").mkdir()
        (tmp_path / f"plant-{plant}" / "logs.hdf5").write_text("")
    text = 'algorithms = ["bc"]\nseeds = 2\ndatasets = ["plant-a/logs.hdf5", "plant-b/logs.hdf5", "other/mine.csv"]\n'
    assert table_of(tmp_path, text, {0: 10.0, 1: 90.0}) == [
        ("plant-a/logs.hdf5", {}, 10.0, 2, 2),
        ("plant-b/logs.hdf5", {}, 90.0, 2, 2),
        ("mine", {}, None, 0, 2),
    ]


def test_a_setting_that_is_half_done_has_one_row(tmp_path: Path) -> None:
    text = 'algorithms = ["bc"]\ndatasets = ["logs.hdf5"]\nseeds = 4\nlanes_per_job = 2\n'
    assert table_of(tmp_path, text, {0: 10.0}) == [("logs", {}, 10.0, 2, 4)]


def test_runs_with_settings_of_their_own_have_rows_of_their_own(tmp_path: Path) -> None:
    """What they differ in is shown; what all of an algorithm have in common, or means the same, is not."""
    run = '[[runs]]\nalgorithm = "td3-bc"\ndataset = "logs.hdf5"\n'
    text = f"""seeds = 2
[options]
updates = 50
[algorithm.bc.set]
learning_rate = 1e-3
{run}set = {{ discount = 0.9, hidden_sizes = [8, 8] }}
{run}set = {{ discount = 0.99, hidden_sizes = "8,8" }}
{run}options = {{ batch_size = 64 }}
set = {{ hidden_sizes = [8, 8] }}
{run.replace("td3-bc", "bc")}"""
    assert table_of(tmp_path, text, {0: 10.0, 1: 90.0, 2: 50.0}) == [
        ("logs", {"discount": 0.9}, 10.0, 2, 2),
        ("logs", {"discount": 0.99}, 90.0, 2, 2),
        ("logs", {"batch_size": 64}, 50.0, 2, 2),
        ("logs", {}, None, 0, 2),
    ]


def test_the_table_counts_what_is_there(tmp_path: Path) -> None:
    """One job done, with a lane that diverged, and one without a result."""
    spec = load_spec(write_spec(tmp_path, tiny() + "[sweep]\nexpectile = [0.5, 0.7]\n[resources]\ncpus = 2\n"))
    folder = SweepFolder.open(tmp_path / "out", spec)
    assert [len(job.lanes) for job in spec.jobs] == [2, 2, 2, 2]
    for job, scores in ((spec.jobs[0], [10.0, 14.0]), (spec.jobs[1], [None, 12.0])):
        lanes = [{"normalized_score": s, "diverged": None if s else "train update 7"} for s in scores]
        folder.run_folder(job).mkdir()
        result = {"lanes": lanes, "dataset": "hopper-medium", "status": "done"}
        (folder.run_folder(job) / "result.json").write_text(json.dumps(result))
    write_table(folder)
    found, lanes = job_rows(folder)
    first = found[0]
    assert (first.dataset, first.settings, first.seeds) == ("hopper-medium", {"expectile": 0.5}, 4)
    assert (first.finished, first.diverged, first.scored, first.mean) == (4, 1, 3, 12.0)
    assert first.low == pytest.approx(12 - 4.302653 * 2 / 3**0.5)  # Student's t with two degrees of freedom
    assert sum(row.seeds - row.finished for row in found) == 4
    assert len(lanes) == 8
    assert len(list(csv.DictReader((tmp_path / "out" / "lanes.csv").read_text().splitlines()))) == 8
    assert (
        "| dtql | hopper-medium | expectile 0.5 | 12.0 | [7.0, 17.0] | 3 of 4 | 1 | 0 |"
        in (tmp_path / "out" / "table.md").read_text()
    )
    code, printed, errors = tether("sweep", spec.path, "--out", tmp_path / "out", "--table")
    assert code == 1  # as a lane diverged
    assert "expectile 0.7" in printed
    assert "4 lanes have no result, 1 diverged" in errors


def test_settings_that_read_alike_have_rows_of_their_own(tmp_path: Path) -> None:
    spec = load_spec(write_spec(tmp_path, tiny() + "[sweep]\nlearning_rate = [3600000.0, 3600001.0, 0.5]\n"))
    folder = SweepFolder.open(tmp_path / "out", spec)
    rows = write_table(folder)
    values = [row.settings["learning_rate"] for row in rows]
    assert values == [3600000, 3600001, 0.5]
    for name in ("table.csv", "lanes.csv"):
        written = list(csv.DictReader((folder.path / name).read_text().splitlines()))
        assert {row["settings"] for row in written} == {f"learning_rate {value:.7g}" for value in values}


# --- Slurm --------------------------------------------------------------------------------------------------


def test_the_slurm_script_is_an_array_of_the_unfinished_jobs(tmp_path: Path) -> None:
    spec = load_spec(write_spec(tmp_path, tiny(lanes_per_job=1) + '[slurm]\npartition = "gpu"\narray_limit = 2\n'))
    folder = SweepFolder.open(tmp_path / "out", spec)
    folder.run_folder(spec.jobs[1]).mkdir()
    (folder.run_folder(spec.jobs[1]) / "result.json").write_text('{"status": "done", "dataset": "set", "lanes": []}')
    code, printed, errors = tether("sweep", spec.path, "--out", tmp_path / "out", "--slurm")
    assert (code, errors) == (0, "")
    script = tmp_path / "out" / "sweep.sbatch"
    assert printed == f"sbatch {script}\n"
    text = script.read_text()
    for line in ("--array=0,2-3%2", "--partition=gpu", "--requeue", "--signal=TERM@60", "--open-mode=append"):
        assert f"#SBATCH {line}\n" in text
    command = f"-m tether sweep {script.with_name('spec.toml')} --out {script.parent} --job $SLURM_ARRAY_TASK_ID"
    assert command in text
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert write_script(folder) == script


# --- jobs ---------------------------------------------------------------------------------------------------


def test_one_writer_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = load_spec(write_spec(tmp_path, tiny()))
    folder = SweepFolder.open(tmp_path / "out", spec)
    run = folder.run_folder(spec.jobs[0])
    run.mkdir()
    lock, waited = filelock.FileLock(run / ".lock"), threading.Event()
    monkeypatch.setattr(jobs_module.sys.stderr, "write", lambda text: waited.set())
    lock.acquire()
    job = threading.Thread(target=run_job, args=(spec.jobs[0], run))
    job.start()
    assert waited.wait(60)
    (run / "result.json").write_text('{"status": "done", "dataset": "set", "lanes": []}')  # by whoever held it
    lock.release()
    job.join(60)
    assert not job.is_alive()
    assert not (run / "config.json").exists()
    monkeypatch.undo()
    code, _, errors = tether("sweep", spec.path, "--out", tmp_path / "out", "--job", 9)
    assert code == 2
    assert "job 9: the spec has jobs 0 to 1" in errors


def kill_once(folder: Path, killed: list[int]) -> None:
    """SIGKILL the first job's process as soon as it has left a checkpoint."""
    lock = folder / "jobs" / "0000-dtql-hopper-medium-part0" / ".lock.json"
    until = time.monotonic() + 600
    while time.monotonic() < until and not killed:
        checkpoints = list((folder / "jobs").glob("0000-*/checkpoints/pretrain-*/manifest.json"))
        if checkpoints and lock.exists():
            killed.append(json.loads(lock.read_text())["process"])
            os.kill(killed[0], signal.SIGKILL)
        time.sleep(0.01)


def check_nothing_lost(folder: Path, killed: list[int]) -> None:
    """Every lane is in the table, and the job that was killed has, bit for bit, the result of one that was not."""
    spec = load_spec(folder / "spec.toml")
    assert killed
    found, lanes = job_rows(SweepFolder(folder, spec))
    assert [(row.seeds, row.finished, row.scored, row.diverged) for row in found] == [(4, 4, 4, 0)]
    assert [lane["seed"] for lane in lanes] == [0, 1, 2, 3]
    run = folder / "jobs" / spec.jobs[0].name
    for lane in (0, 1):
        policy = f"policies/lane-{lane}/policy.safetensors"
        assert digest(run / policy) == digest(finished_run() / policy)
    assert rows(run / "metrics.jsonl") == rows(finished_run() / "metrics.jsonl")
    events = [(row["job"], row["event"]) for row in rows(folder / "events.jsonl")]
    assert events.count((0, "done")) == events.count((1, "done")) == 1
    assert sum(job == 0 and event in ("retried", "failed") for job, event in events) == 1


def sweep_with_a_kill(tmp_path: Path, *options: str) -> tuple[Path, list[int], str]:
    """A sweep in its own process, of which one job is killed -> folder, what was killed, what was printed."""
    finished_run()  # what it compiled, the jobs find
    spec, folder, killed = write_spec(tmp_path, tiny()), tmp_path / "out", []
    watcher = threading.Thread(target=kill_once, args=(folder, killed), daemon=True)
    watcher.start()
    command = [sys.executable, "-m", "tether", "sweep", str(spec), "--out", str(folder), *options]
    environment = os.environ | {"PYTHONPATH": SOURCE, "RAY_ADDRESS": "local"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1200)
    assert result.returncode == 0, (result.stdout[-3000:], result.stderr[-3000:])
    return folder, killed, result.stdout


@pytest.mark.long
def test_a_local_sweep_survives_a_kill(tmp_path: Path) -> None:
    folder, killed, printed = sweep_with_a_kill(tmp_path, "--local")
    check_nothing_lost(folder, killed)
    assert "4 of 4" in printed
    before = (folder / "events.jsonl").read_text()
    code, _, _ = tether("sweep", folder / "spec.toml", "--out", folder, "--local")  # there is nothing left to do
    assert (code, (folder / "events.jsonl").read_text()) == (0, before)


@pytest.mark.long
def test_a_ray_sweep_survives_a_kill(tmp_path: Path) -> None:
    """A real cluster on this machine, whose two workers train a job each; one worker is killed in the middle."""
    pytest.importorskip("ray")
    folder, killed, printed = sweep_with_a_kill(tmp_path)
    check_nothing_lost(folder, killed)
    assert "4 of 4" in printed


def test_what_fails_is_tried_again_and_then_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Crashes as often as the spec allows; bad input never."""
    spec = load_spec(write_spec(tmp_path, tiny(retries=2)))
    folder = SweepFolder.open(tmp_path / "out", spec)
    ends = {0: ["kill -9 $$", "exit 1", "exit 1", "never"], 1: ["exit 2", "never"]}

    def start(folder: SweepFolder, job: Any, cores: int) -> subprocess.Popen:
        return subprocess.Popen(["sh", "-c", ends[job.number].pop(0)])

    monkeypatch.setattr(local, "_start", start)
    failed = local.run_locally(folder, 2, lambda text: None)
    assert sorted(job.number for job in failed) == [0, 1]
    assert ends == {0: ["never"], 1: ["never"]}
    events = [(row["job"], row["event"]) for row in folder.events.read()]
    assert events.count((0, "started")) == 3
    assert events.count((1, "started")) == 1
