"""Estimates before a run: what they are scaled by, and that a dry run leaves nothing behind."""

import dataclasses
from pathlib import Path

import pytest
from make_data import data_file, tether

from tether.algorithms import ALGORITHMS, DTQL, IQL
from tether.bench import forecast as module
from tether.bench.forecast import ASSUMED_FRACTION, duration, forecast, long_run_warning
from tether.bench.results import COSTS, read_figures
from tether.errors import InputError
from tether.types import Spec

FIGURES = read_figures(COSTS)
SIZES = FIGURES["runs"][0]["sizes"]
SPEC, BATCH = Spec(SIZES["observation_size"], SIZES["action_size"]), SIZES["batch_size"]


def committed(name: str, phase: str) -> dict:
    (row,) = [r for r in FIGURES["results"] if (r["algorithm"], r["what"]) == (name, phase)]
    return row


def test_the_committed_sizes_give_the_committed_time() -> None:
    row = committed("iql", "train")
    algorithm = IQL(train_updates=1000)
    seconds = forecast(algorithm, SPEC, BATCH, 1, row["matmul_rate_gflops"]).seconds
    assert seconds is not None
    assert seconds == pytest.approx(1000 * row["seconds_per_update"])
    for batch, lanes, rate, times in ((2, 1, 1.0, 2.0), (1, 3, 1.0, 3.0), (1, 1, 0.5, 2.0), (1, 1, 4.0, 0.25)):
        changed = forecast(algorithm, SPEC, batch * BATCH, lanes, rate * row["matmul_rate_gflops"])
        assert changed.seconds == pytest.approx(times * seconds)
    assert (
        forecast(algorithm, SPEC, BATCH, 4, None).memory_bytes > forecast(algorithm, SPEC, BATCH, 1, None).memory_bytes
    )


def test_phases_add_up_and_wide_networks_cost_more() -> None:
    found = forecast(DTQL(), SPEC, BATCH, 1, 100.0)
    assert [phase.name for phase in found.phases] == ["pretrain", "train"]
    assert found.seconds == pytest.approx(sum(phase.seconds or 0.0 for phase in found.phases))
    assert found.measured
    wide = forecast(IQL(hidden_sizes=(512, 512)), SPEC, BATCH, 1, 100.0).seconds
    usual = forecast(IQL(), SPEC, BATCH, 1, 100.0).seconds
    assert wide is not None
    assert usual is not None
    assert 3 < wide / usual < 5  # the matmuls are counted: nearly four times as many


def test_an_algorithm_that_was_never_measured_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    row = committed("iql", "train")
    monkeypatch.setattr(module, "_committed", dict)
    found = forecast(IQL(train_updates=10), SPEC, BATCH, 1, 200.0)
    assert not found.measured
    assert found.seconds == pytest.approx(10 * row["matmul_flops_per_update"] / (200e9 * ASSUMED_FRACTION), rel=1e-6)
    assert forecast(IQL(), SPEC, BATCH, 1, None).seconds is None
    assert long_run_warning(IQL(), SPEC, BATCH, 1) is None


def test_runs_of_days_are_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "matmul_rate", lambda: 300.0)
    slow = long_run_warning(ALGORITHMS["bdpo"](), SPEC, BATCH, 1)
    assert slow is not None
    assert "\n" not in slow
    for words in (
        "bdpo: about ",
        " days on this machine",
        "pretrain",
        "--pretrain-updates N --updates N",
        "300 GFLOP/s",
    ):
        assert words in slow
    assert long_run_warning(DTQL(train_updates=10_000, pretrain_updates=2_000), SPEC, BATCH, 1) is None
    short = dataclasses.replace(ALGORITHMS["bdpo"](), pretrain_updates=100, train_updates=100)
    assert long_run_warning(short, SPEC, BATCH, 1) is None


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "less than 1 s"), (40.0, "40 s"), (89.0, "89 s"), (100.0, "1.7 min"), (3600.0, "60 min"), (9e3, "2.5 h"),
     (9e4, "25 h"), (2e5, "2.3 days"), (9e6, "104 days")],
)  # fmt: skip
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder and a cache that must stay empty; the machine is not measured."""
    import tether.studies.dry_run as dry

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TETHER_CACHE", str(tmp_path))
    monkeypatch.setattr(dry, "matmul_rate", lambda **_: 100.0)
    return tmp_path


def test_train_says_what_it_would_do_and_writes_nothing(nowhere: Path) -> None:
    words = ["--updates", "2000", "--seeds", "2", "--set", "expectile=0.9"]
    code, out, err = tether("train", "iql", data_file(), *words, "--dry-run")
    assert (code, err) == (0, "")
    for line in ("dry run", "iql, ", "hopper-medium: 400 rows", "2: seeds 0, 1", "train 2,000 updates (about ",
                 "minibatches of 256", "hopper, Hopper-v4: 10 times 10 episodes a lane (at most ", "scaled by",
                 "100 GFLOP/s", "about 1 GB for Python", "runs/iql-hopper-medium-"):  # fmt: skip
        assert line in out, line
    assert not list(nowhere.iterdir())
    code, out, _ = tether("train", "dac", "d4rl:hopper-medium-v2", "--dry-run")
    assert code == 0
    assert "preset hopper-medium-v2" in out
    assert "not on this machine, would be downloaded; observations of size 11, actions of size 3" in out
    assert not list(nowhere.iterdir())
    assert tether("train", "iql", data_file(), "--dry-run", "--set", "critic_network=hl-gauss")[0] == 0


@pytest.mark.parametrize(
    "wrong",
    ["--set expectil=1", "--updates 0", "--out /", "--environment hoper", "--batch-size 4000",
     "--chunk 2 --sweep discount=0.9,0.99", "--set critic_network=hl-gauss+quantile"],
)  # fmt: skip
def test_a_dry_run_refuses_what_training_refuses(nowhere: Path, wrong: str) -> None:
    asked = ("train", "iql", data_file(), *wrong.split(), "--quiet")
    dry, real = tether(*asked, "--dry-run"), tether(*asked)
    assert (dry[0], dry[2]) == (real[0], real[2])
    assert dry[0] == 2
    assert dry[2].startswith("tether: error: ")


def test_compare_and_sweep_say_it_of_every_run(nowhere: Path) -> None:
    words = ["--data", data_file(), "--algorithms", "bc,iql", "--updates", "2000", "--dry-run"]
    code, out, err = tether("compare", *words)
    assert (code, err) == (0, "")
    assert out.count("defaults, batch 256") == 2
    assert "in all about" in out
    assert not list(nowhere.iterdir())
    assert tether("compare", "--out", "mine", "--dry-run")[0] == 2
    code, _, err = tether("compare", "--data", "d4rl:hopper-medium-v2", "--algorithms", "bc", "--dry-run")
    assert code == 2
    assert "not on this machine" in err  # nothing is downloaded
    spec = nowhere / "spec.toml"
    spec.write_text(
        f'algorithms = ["bc"]\ndatasets = ["{data_file()}"]\nseeds = 2\n[grid]\nhidden_sizes = ["8", "16"]\n'
    )
    code, out, err = tether("sweep", spec, "--dry-run")
    assert (code, err) == (0, "")
    assert "2 programs" in out
    assert out.count("defaults, 2 lanes") == 2
    assert tether("sweep", spec, "--dry-run", "--local")[0] == 2
    assert [path.name for path in nowhere.iterdir()] == ["spec.toml"]


def test_training_announces_it_before_it_starts(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tether import api

    def stop(run: api.Run) -> None:
        raise InputError("training began")

    monkeypatch.setattr(api, "long_run_warning", lambda *about: "days and days")
    monkeypatch.setattr(api.Run, "execute", stop)
    code, _, err = tether("train", "iql", data_file(), "--out", "run", "--quiet")
    assert (code, err.splitlines()) == (2, ["days and days", "tether: error: training began"])
