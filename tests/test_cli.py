"""The `tether` command: its help teaches, its output can be read and piped, its exit codes tell."""

import io
import itertools
import json
import os
import pty
import re
import shlex
import shutil
import subprocess
import sys
import time
import tomllib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from make_data import OPTIONS, copy_run, data_file, finished_run, rows, snapshot, tether, write_d4rl

import tether as package
from tether import api, cli
from tether.algorithms import ALGORITHMS, FAMILIES
from tether.cli.command import COMMANDS
from tether.cli.data import DATA_VERBS
from tether.cli.lists import Algorithms
from tether.cli.words import check_words, options_of
from tether.environments import TASKS, Task
from tether.environments.ids import find_environment
from tether.errors import InputError
from tether.evaluation.rollout import Episodes
from tether.machine.registry import register
from tether.runs.jsonlines import JsonLines
from tether.runs.records import Display

PNG = b"\x89PNG\r\n"


# --- help and usage -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["train", "--help"], ["algorithms"]])
def test_a_reader_that_has_seen_enough_is_no_fault(words: list[str]) -> None:
    """`tether train --help | head -1`: no traceback, nothing on stderr."""
    command = [sys.executable, "-m", "tether", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()  # long before it writes
        assert process.stderr.read() == b""
    assert process.returncode == 1


def test_help_lists_every_command() -> None:
    code, out, err = tether("--help")
    assert (code, err) == (0, "")
    for name, command in COMMANDS.items():
        assert name in out
        assert (command.__doc__ or "").split(".")[0].split()[0] in out
    assert "Examples" not in out  # these are in the commands' own


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "bench"])
def test_each_help_teaches(name: str) -> None:
    code, out, err = tether(name, "--help")
    assert (code, err) == (0, "")
    for line in (COMMANDS[name].__doc__ or "").splitlines():
        if line.strip().startswith("tether "):
            assert line.strip() in out  # the examples stay as they are written
    if name not in ("algorithms", "tasks"):
        assert "Examples:" in out
    assert "{None}" not in out
    assert "(default: None)" not in out
    assert "(default: )" not in out
    assert max(map(len, out.splitlines())) <= 100


def test_help_states_the_defaults() -> None:
    _, out, _ = tether("train", "--help")
    flat = re.sub(r"[\s│]+", " ", out)
    for words in (
        "ALGORITHM Name of the algorithm; `tether algorithms` lists them. (default: dtql)",
        "(default: halfcheetah-medium-replay-small)",
        "--batch-size N Transitions in a minibatch. (default: the preset's, or 256)",
        "--log-every-updates N Updates between rows of metrics.jsonl. (default: 500)",
        "(default: runs/ALGORITHM-DATASET-TIME)",
    ):
        assert words in flat


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["trian"],
        ["train", "--updates", "many"],
        ["train", "--update"],
        ["train", "dtql", "a", "b"],
        ["resume"],
        ["data"],
        ["data", "lsit"],
        ["data", "show", "a", "b"],
    ],
)
def test_wrong_usage_exits_2(arguments: list[str]) -> None:
    code, out, err = tether(*arguments)
    assert code == 2
    assert out == ""
    assert "Traceback" not in err
    assert err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trian"], "unknown command 'tether trian'; did you mean train?"),
        (["data", "lsit"], "unknown command 'tether data lsit'; did you mean list?"),
        (["train", "--update", "5"], "tether train has no option --update; did you mean --updates, "),
        (["train", "--updats=5"], "tether train has no option --updats; did you mean --updates"),
        (["train", "dtql", "--episodes", "5"], "did you mean --eval-episodes"),
        (["train", "--lanes.sedes", "5"], "did you mean --lanes.seeds"),
        (["data", "show", "--qqq"], "tether data show has no option --qqq; `tether data show --help` lists all"),
    ],
)
def test_misspelt_words_are_answered_in_one_line_with_the_likely_one_first(arguments: list[str], words: str) -> None:
    code, out, err = tether(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert words in err


def test_every_option_of_every_help_is_known() -> None:
    for command in [*COMMANDS.values(), *DATA_VERBS.values()]:
        for option in options_of(command) if command is not COMMANDS["data"] else ():
            check_words(
                ["verb", option, f"{option}=1", option.replace("-", "_").replace("__", "--")], {"verb": command}
            )
    known = options_of(COMMANDS["train"])
    assert {"--updates", "--seeds", "--lanes.seeds", "--help", "--dry-run"} <= set(known)
    assert not {"--algorithm", "--dataset"} & set(known)  # these are named by their place


@pytest.mark.parametrize("verb", DATA_VERBS)
def test_each_help_of_a_data_verb_teaches(verb: str) -> None:
    code, out, err = tether("data", verb, "--help")
    assert (code, err) == (0, "")
    examples = [line.strip() for line in (DATA_VERBS[verb].__doc__ or "").splitlines() if "tether data" in line]
    assert examples
    assert all(line in out for line in examples)
    assert "(default: None)" not in out
    assert verb in tether("data", "--help")[1]


def test_examples_in_the_help_parse() -> None:
    for command in [*COMMANDS.values(), *DATA_VERBS.values()]:
        for line in (command.__doc__ or "").splitlines():
            words = line.split()
            if words[:1] == ["tether"]:
                parsed = cli.parse(shlex.split(line)[1:])
                assert isinstance(parsed.verb if command in DATA_VERBS.values() else parsed, command)


def test_the_entry_point_is_installed() -> None:
    project = tomllib.loads((Path(package.__file__).parents[2] / "pyproject.toml").read_text())
    assert project["project"]["scripts"]["tether"] == "tether.cli:main"


def test_python_m_tether_is_the_command() -> None:
    run = subprocess.run([sys.executable, "-m", "tether", "train", "--updates", "many"], capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (2, "")
    assert "--updates" in run.stderr


def test_help_does_not_wait_for_jax() -> None:
    program = (
        "import sys, time\n"
        "from tether import cli\n"
        "try:\n"
        "    cli.main(['train', '--help'])\n"
        "except SystemExit as stop:\n"
        "    slow = {'jax', 'numpy', 'matplotlib', 'gymnasium', 'h5py'} & set(sys.modules)\n"
        "    sys.exit(f'imported {slow}' if slow else stop.code)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


# --- commands -----------------------------------------------------------------------------------------------


def test_algorithms() -> None:
    code, out, err = tether("algorithms")
    assert (code, err) == (0, "")
    for name in ALGORITHMS:
        assert len(re.findall(rf"^ {name} +\w", out, re.MULTILINE)) == 1
    for family, names in FAMILIES.items():
        assert out.index(f" {family} ") < out.index(f"\n {names[0]} ")
    assert sorted(itertools.chain(*FAMILIES.values())) == sorted(ALGORITHMS)
    dtql = next(line for line in out.splitlines() if line.startswith(" dtql "))
    assert re.search(r"Diffusion Trusted Q-Learning +2405.19690 +26 LADK +CEBM ", dtql)
    for words in ("presets:", "checks:", "GFLOP:", "act ms:", "- not measured"):
        assert words in out[out.index("\n sac ") :]  # the legend


def test_tasks() -> None:
    code, out, err = tether("tasks")
    assert (code, err) == (0, "")
    for name in TASKS:
        assert f" {name} " in out
    assert "Hopper-v4" in out
    assert "hopper-medium-expert-v2" in out
    assert re.search(r"pen +│ tether/Adroit-v0 hand=pen \(robotics\) ", out)
    assert '(robotics): needs pip install "tether-rl[robotics]"' in out


def test_data_show() -> None:
    code, out, err = tether("data", "show", data_file())
    assert (code, err) == (0, "")
    for words in ("400", "396", "11 numbers", "3 numbers", "hopper (Hopper-v4)", "normalised score", "not stored"):
        assert words in out
    assert str(data_file()) in out  # not cut, however long
    code, out, _ = tether("data", "show")
    assert code == 0
    assert "halfcheetah-medium-replay-small" in out


def test_data_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    write_d4rl(tmp_path / "mine" / "robot" / "human-v0" / "data" / "main_data.hdf5")
    write_d4rl(tmp_path / "mine" / "elsewhere.hdf5")
    monkeypatch.setenv("TETHER_CACHE", str(tmp_path / "cache"))
    write_d4rl(tmp_path / "cache" / "d4rl" / "hand_dapg_v1" / "pen-human-v1.hdf5")
    write_d4rl(tmp_path / "cache" / "d4rl" / "hand_dapg_v1" / "door-human-v1.hdf5.part")
    code, out, err = tether("data", "list")
    assert (code, err) == (0, "")
    names = re.findall(r"^│ (\S+) +│ +[\d.]+ │", out, re.MULTILINE)
    assert [name for name in names if name.startswith("minari:")] == ["minari:mine/robot/human-v0"]
    assert [name for name in names if name.startswith("d4rl:")] == ["d4rl:pen-human-v1"]
    assert "halfcheetah-medium-replay-small" in names


def test_evaluate(tmp_path: Path) -> None:
    run = copy_run(tmp_path / "a-run")
    before = snapshot(run)
    code, out, progress = tether("evaluate", run, "--episodes", 2)
    assert code == 0
    assert "a-run: 2 episodes of each lane" in out
    assert len(re.findall(r"^│ +(?:0|1|all) │", out, re.MULTILINE)) == 3
    assert "evaluate: 1,000 steps" in progress
    written = set(snapshot(run)) - set(before)
    assert written == {"evaluate-250-2.json"}
    assert {name: digest for name, digest in snapshot(run).items() if name in before} == before
    # the run's own last evaluation had as many episodes, from the same starts and keys
    repeated = json.loads((run / "evaluate-250-2.json").read_text())["returns"]
    last = [row["return"] for row in rows(run / "evaluations.jsonl") if row["update"] == 250]
    assert list(itertools.chain(*repeated)) == last


def test_evaluate_in_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    """Somebody else's run: the scores are told all the same."""
    run = copy_run(tmp_path / "a-run")
    path = run / "evaluate-250-1.json"
    path.mkdir()  # which refuses the superuser, too
    code, out, err = tether("evaluate", run, "--episodes", 1, "--quiet")
    assert code == 0
    assert len(re.findall(r"^│ +(?:0|1|all) │", out, re.MULTILINE)) == 3
    assert err == f"{path}: not written: Is a directory\n"


def test_evaluations_are_summed_up_as_those_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two scores by chance, where the run has had more: their interquartile mean, in the rows of all lanes."""
    scores = np.array([[75.0] * 8 + [100.0] * 2, [75.0] * 10])
    monkeypatch.setattr(api, "evaluate", lambda *_, **__: (Episodes(scores, np.ones((2, 10), int)), scores))
    row = {"update": 1, "lane": 0, "length": 5, "return": 1.0}
    own = [{**row, "episode": e, "normalized_score": score} for e, score in enumerate((0.0, 75.0, 100.0))]
    JsonLines(tmp_path / "evaluations.jsonl").append(own)
    code, out, _ = tether("evaluate", tmp_path)
    assert code == 0
    assert re.findall(r"^│ +(0|1|all) │.* ([\d.]+) │ +([\d.]+) │ +\[", out, re.MULTILINE) == [
        ("0", "80.0", "75.0"), ("1", "75.0", "75.0"), ("all", "77.5", "75.0")
    ]  # fmt: skip


def test_plot(tmp_path: Path) -> None:
    first, second = copy_run(tmp_path / "first"), copy_run(tmp_path / "second")
    (first / "curve.png").unlink()
    code, out, err = tether("plot", first)
    assert (code, out, err) == (0, f"{first / 'curve.png'}\n", "")
    assert (first / "curve.png").read_bytes() == (second / "curve.png").read_bytes()
    code, out, _ = tether("plot", first, second, "--out", tmp_path / "both.png")
    assert (code, out) == (0, f"{tmp_path / 'both.png'}\n")
    assert (tmp_path / "both.png").read_bytes().startswith(PNG)
    code, _, err = tether("plot", first, "--out", tmp_path / "missing" / "both.png")
    assert code == 2
    assert f"there is no folder {tmp_path / 'missing'}" in err


def test_train_separates_results_from_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(data_file(), "hopper-medium.hdf5")
    code, out, err = tether("train", "dtql", "hopper-medium.hdf5", *OPTIONS, "--seeds", 2)
    assert code == 0
    (run,) = (tmp_path / "runs").iterdir()
    assert re.fullmatch(r"dtql-hopper-medium-\d{8}-\d{6}", run.name)
    lines = out.splitlines()
    assert lines[-3:] == [
        f"{what:<8}runs/{run.name}{end}" for what, end in (("curve", "/curve.png"), ("policy", "/policy"), ("run", ""))
    ]
    for words in ("behaviour (the data)", "policy, last (update 250)", "policy, best (update", "2 x 2"):
        assert words in out
    assert err.splitlines()[0] == f"dtql on hopper-medium: 396 transitions, 2 lanes, in runs/{run.name}"
    assert [line.split("score")[0].split() for line in err.splitlines() if "score" in line] == [
        ["update", "100"], ["update", "200"], ["update", "250"]
    ]  # fmt: skip
    monkeypatch.chdir("/")  # a run can be continued from anywhere
    assert tether("resume", run)[0] == 0


def test_presets_and_options_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}

    def train(algorithm: object, dataset: str, **options: object) -> None:
        seen.update(options, algorithm=algorithm)
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "train", train)

    def parse(*arguments: str) -> dict:
        seen.clear()
        assert tether("train", *arguments)[0] == 130
        return seen

    demo = parse()
    assert demo["notes"]["preset"] == "demo"
    assert demo["algorithm"].q_normalization == "mean-abs"
    plain = parse("dtql", str(data_file()))
    assert plain["notes"]["preset"] is None
    assert plain["options"].eval_every_updates == plain["algorithm"].train_updates // 10
    faithful = parse("dtql", str(data_file()), "--preset", "hopper-medium-v2")
    assert faithful["algorithm"].trust_region_weight == 5.0
    assert faithful["options"].eval_every_updates == 50_000
    named = parse("dtql", str(write_d4rl(tmp_path / "hopper-medium-v2.hdf5")))
    assert named["notes"]["preset"] == "hopper-medium-v2"
    assert parse("dtql", str(tmp_path / "hopper-medium-v2.hdf5"), "--preset", "none")["notes"]["preset"] is None
    ours = parse("dtql", "x", "--preset", "antmaze-umaze-v0", "--set", "expectile=0.5", "--updates", "1000")
    assert ours["algorithm"].expectile == 0.5
    assert ours["algorithm"].train_updates == 1000
    assert ours["algorithm"].log_likelihood_weight == 1.0
    assert ours["options"].eval_every_updates == 100  # the preset's is meant for its own length
    assert ours["options"].batch_size == 2048
    assert ours["reward_transform"] == "iql_antmaze"
    over = parse("dtql", "x", "--preset", "antmaze-umaze-v0", "--batch-size", "64", "--reward-transform", "none")
    assert (over["options"].batch_size, over["reward_transform"]) == (64, "none")
    assert list(parse("--seeds", "3", "--first-seed", "5")["seeds"]) == [5, 6, 7]
    assert list(parse("--lanes.seeds", "2")["seeds"]) == [0, 1]


# --- a bug, and the display ---------------------------------------------------------------------------------


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Algorithms) -> int:
        raise RuntimeError("a bug")

    monkeypatch.setattr(Algorithms, "run", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        tether("algorithms")


def test_quiet_leaves_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    for quiet in (True, False):
        with Display(quiet) as display:
            display.begin("train", 50, 100)
            display.advance(60, 10.0)
            display.note("evaluating")
            display.score(60, "score 1.0 [0.5, 1.5]")
            display.message("a message")
            display.warn("a warning " + "x" * 200)
        out, err = capsys.readouterr()
        assert out == ""
        warning = "a warning " + "x" * 200
        if quiet:
            assert err == f"{warning}\n"
        else:
            assert err.splitlines() == [
                "train: 100 updates, from 50 on", "update        60  score 1.0 [0.5, 1.5]", "a message", warning
            ]  # fmt: skip


def test_a_long_run_without_a_terminal_shows_that_it_lives(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Display(quiet=False) as display:
        display.begin("train", 0, 2000)
        display.advance(100, 10.0)
        start = time.monotonic()
        monkeypatch.setattr(time, "monotonic", lambda: start + 31)
        display.advance(1200, 10.0)
        display.advance(1300, 10.0)
    assert capsys.readouterr().err.splitlines() == ["train: 2,000 updates", "1,200 of 2,000  10 updates/s"]


def on_a_terminal(program: str) -> str:
    """What a Python program prints there, without the terminal's codes."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"}
    with subprocess.Popen(
        [sys.executable, "-c", program], env=environment, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        printed = b""
        with suppress(OSError):  # how Linux says that the other side is closed
            while part := os.read(ours, 4096):
                printed += part
        os.close(ours)
    assert process.returncode == 0, printed
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", printed.decode())


def test_on_a_terminal_there_is_a_bar() -> None:
    text = on_a_terminal(
        "from tether.runs.records import Display\n"
        "with Display(False) as display:\n"
        "    display.begin('train', 0, 4000)\n"
        "    display.advance(1000, 123.4)\n"
        "    display.score(1000, 'score 12.3 [11.0, 13.0]')\n"
        "    display.advance(2000, 123.4)\n"
        "    display._progress.refresh()\n"
    )
    assert "2000/4000 123 updates/s  score 12.3 [11.0, 13.0]" in text
    assert "update     1,000  score 12.3 [11.0, 13.0]" in text


# --- JSON lines ---------------------------------------------------------------------------------------------


def test_json_lines(tmp_path: Path) -> None:
    lines = JsonLines(tmp_path / "rows.jsonl")
    assert lines.read() == []
    lines.append([{"update": 1, "x": 0.1}, {"update": 2, "x": None}])
    lines.append([{"update": 3, "x": 1e-300}])
    assert [row["update"] for row in lines.read()] == [1, 2, 3]
    assert rows(lines.path) == lines.read()
    with pytest.raises(ValueError, match="not JSON compliant"):
        lines.append([{"x": float("nan")}])
    with lines.path.open("a") as file:
        file.write('{"update": 4, "x"')  # a kill
    assert [row["update"] for row in lines.read()] == [1, 2, 3]
    whole = lines.path.read_text().splitlines()[1:3]
    lines.keep(lambda row: row["update"] > 1)
    assert lines.path.read_text().splitlines() == whole  # to the letter
    lines.append([{"update": 5}])
    assert [row["update"] for row in lines.read()] == [2, 3, 5]
    assert os.listdir(tmp_path) == ["rows.jsonl"]
    assert finished_run().exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("train bc --updates five", "--updates 'five': a whole number is needed"),
        ("train bc --horizon 1.5", "--horizon '1.5': a whole number is needed"),
        ("data import a --max-gap long --observation x --action u --out o", "--max-gap 'long': a number is needed"),
        ("train bc --lanes-per-group", "--lanes-per-group: a value is missing"),
        ("train bc --lanes-per-group --quiet", "--lanes-per-group: a value is missing"),
        (
            "data import a.csv --observation x --action u --out a.hdf5 --reward -abs(x)",
            "--reward: a value is missing; one that begins with - is written '--reward=-abs(x)'",
        ),
        ("train bc --eval-device gpu", "--eval-device 'gpu': choices are auto, cpu, accelerator"),
        ("train a b c", "tether train takes no 'c'; `tether train --help` lists all"),
        ("evaluate", "tether evaluate: DIR is missing; `tether evaluate --help` lists all"),
        ("data", "tether data: say which, show, list, check, import, collect"),
        ("data import a", "tether data import: --observation COLUMN ..., --action COLUMN ..., --out HDF5 are missing;"),
        ("--versoin", "tether has no option --versoin; did you mean --version? `tether --help` lists all"),
    ],
)  # fmt: skip
def test_wrong_usage_is_one_line(words, said, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.parse(words.split())
    printed = capsys.readouterr()
    assert (stop.value.code, printed.out) == (2, "")
    assert printed.err.startswith(f"tether: error: {said}")
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        ["--set", "a=1", "b=2", "c=-3"],
        ["--set", "a=1", "--set", "b=2", "c=-3"],
        ["--set=a=1", "--seeds", "2", "--set", "b=2", "--set=c=-3"],
    ],
)
def test_an_option_that_takes_several_may_be_given_again(words: list[str]) -> None:
    """The parser would keep the last one's values alone."""
    command = cli.parse(["train", "dtql", "data.hdf5", *words, "--logger", "csv", "--logger", "wandb"])
    assert command.set == ("a=1", "b=2", "c=-3")
    assert command.logger == ("csv", "wandb")
    assert command.algorithm == "dtql"
    runs = cli.parse(["reproduce", "dtql-table-1", "--runs", "a", "--runs", "b"]).runs
    assert [str(run) for run in runs] == ["a", "b"]
    columns = ["--observation", "x", "--action", "u", "--observation", "y", "v*", "--out", "made.hdf5"]
    imported = cli.parse(["data", "import", "log.csv", "--action_low", "-1", *columns, "--action-low", "-2"]).verb
    assert (imported.action_low, imported.observation) == ((-1.0, -2.0), ("x", "y", "v*"))


def test_whole_numbers_may_be_written_with_an_exponent_however_the_option_is_spelled():
    for words, name, value in (
        (["--updates=1e4"], "updates", 10_000),
        (["--pretrain_updates", "1e4"], "pretrain_updates", 10_000),
        (["--pretrain_updates=1e4"], "pretrain_updates", 10_000),
        (["--lanes.seeds", "1e1"], "seeds", 10),
    ):
        assert getattr(cli.parse(["train", "bc", *words]), name) == value
    command = cli.parse(["export", "run", "--candidates", "16", "1e2", "2e3", "--out", "made"])
    assert command.candidates == (16, 100, 2000)


@pytest.mark.parametrize("words", [["--plugin", "no_such_module", "--version"], ["--version", "--plugin", "gone"]])
def test_the_version_is_said_whatever_the_plugins_are(words: list[str]) -> None:
    assert tether(*words) == (0, f"tether {package.__version__}\n", "")


def test_a_terminal_without_unicode_gets_question_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A traceback it was."""
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    with pytest.raises(SystemExit) as stop:
        cli.main(["data", "show", str(data_file())])
    sys.stdout.flush()
    assert stop.value.code == 0
    assert b"beyond ?0.99" in raw.getvalue()


def test_registered_environments_are_tasks_that_are_listed_and_offered() -> None:
    register("countdown", kind="environment")(Task("x", 2, 1, horizon=4, gymnasium_id="CountDown-v0"))
    register("failing", kind="environment")(lambda: 1 / 0)
    code, out, _ = tether("tasks")
    assert code == 0
    rows = {line.split()[1]: line for line in out.splitlines() if line.startswith("│")}
    assert "CountDown-v0" in rows["countdown"]
    assert "cannot be used: environment 'failing': ZeroDivisionError" in rows["failing"]
    with pytest.raises(InputError, match="unknown environment 'cuontdown'; did you mean countdown"):
        find_environment("cuontdown")


def test_whole_numbers_may_be_written_with_an_exponent():
    assert cli.parse(["train", "bc", "--updates", "1e4"]).updates == 10_000
    assert cli.parse(["train", "bc", "--updates", "2.5e3"]).updates == 2_500
