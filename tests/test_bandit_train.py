"""Training on the 2-D problems, their settings, pictures and command."""

import functools
import json

import jax.numpy as jnp
import matplotlib.image
import numpy as np
import pytest

from tether.algorithms import ALGORITHMS
from tether.algorithms.registry import parse_fields
from tether.bandits import PROBLEMS, gallery, get_problem
from tether.bandits.gallery import FIGURES, score_run, tables, value_error
from tether.bandits.pictures import Panel, chain, draw_panel, grid, new_panels, q_value, write_title
from tether.bandits.train import BANDIT_ALGORITHMS, Setup, bandit_settings, load_trained, save_trained, train_bandit
from tether.cli.command import main
from tether.errors import InputError

TINY = {"train_updates": 12, "hidden_sizes": (8, 8), "batch_size": 16, "points": 200}
NETWORKS = {
    "dtql": {"pretrain_updates": 8, "denoiser_hidden_sizes": (8, 8)},
    "dtql-kl": {"pretrain_updates": 8, "denoiser_hidden_sizes": (8, 8)},
    "dac": {"diffusion_steps": 3, "ensemble_size": 2},
    "bdpo": {"pretrain_updates": 8, "diffusion_steps": 3, "noise_hidden_sizes": (8, 8), "actor_warmup_updates": 2},
}


@functools.cache  # compiling takes seconds, and what was trained is never changed
def tiny(algorithm, problem="8gaussians", **changes):
    settings = bandit_settings(algorithm, problem, "fair") | TINY | NETWORKS[algorithm] | changes
    return train_bandit(algorithm, get_problem(problem), settings, quiet=True)


@pytest.mark.parametrize("algorithm", BANDIT_ALGORITHMS)
def test_settings_name_only_fields_that_exist(algorithm):
    own = set(Setup.__dataclass_fields__)
    for problem in PROBLEMS:
        settings = bandit_settings(algorithm, problem, "fair")
        values = {name: value for name, value in settings.items() if name not in own}
        ALGORITHMS[algorithm](**parse_fields(ALGORITHMS[algorithm], values))


def test_published_settings_are_those_of_the_papers_runs_and_no_others():
    """The runs of the paper's script: eta 5 for the roll with reward far, else 1; the KL runs' numbers of epochs."""
    rewards = {"25gaussians": ("near", "far", "hard"), "roll": ("near", "far")}
    problems = [f"{points}-{reward}" for points, own in rewards.items() for reward in own]
    weights = [bandit_settings("dtql", problem, "published")["trust_region_weight"] for problem in problems]
    assert weights == [1.0, 1.0, 1.0, 1.0, 1 / 5]
    updates = [bandit_settings("dtql-kl", problem, "published")["train_updates"] for problem in problems]
    assert updates == [3500, 2000, 2500, 1500, 3500]
    with pytest.raises(InputError, match="8gaussians"):
        bandit_settings("dtql", "8gaussians", "published")
    with pytest.raises(InputError, match="dtqk"):
        bandit_settings("dtqk", "8gaussians", "fair")


@pytest.mark.parametrize(
    "algorithm", [a if a == "dac" else pytest.param(a, marks=pytest.mark.long) for a in BANDIT_ALGORITHMS]
)
def test_every_algorithm_trains_and_samples_in_the_problems_units(algorithm):
    trained = tiny(algorithm)
    samples = trained.sample(64, seed=3)
    assert samples.shape == (64, 2)
    assert np.isfinite(samples).all()
    np.testing.assert_array_equal(samples, trained.sample(64, seed=3))
    assert not np.array_equal(samples, trained.sample(64, seed=4))
    row = score_run(trained, trained.sample(300))
    assert json.loads(json.dumps(row, allow_nan=True))["mean_energy"] == row["mean_energy"]
    assert (row["value_error"] is not None) == (algorithm == "bdpo")


@pytest.mark.long
def test_unit_scale_shows_the_networks_a_box_and_gives_the_problems_units_back():
    trained = tiny("dtql", "25gaussians-far")
    assert trained.setup.unit_scale
    assert trained.scale == pytest.approx(np.abs(trained.data).max())
    assert 10.0 < trained.scale < 12.0  # corners at 10, standard deviation 0.3
    axis, half = grid(trained.problem, get_problem("25gaussians-far").sample(10_000, np.random.default_rng(0)))
    assert half > trained.scale
    assert len(axis) == q_value(trained, trained.problem.sample(10_000, np.random.default_rng(0))).shape[0]


def test_reward_noise_is_averaged_over_many_draws():
    """With 64 noisy copies of every point Q can only learn their mean; a critic of one draw would learn the noise."""
    from tether.bandits.train import NOISE_COPIES, _data

    problem = get_problem("dac-two")
    data, scale, spec, points = _data(problem, Setup(), np.random.default_rng(0))
    reward = np.asarray(data.reward).reshape(NOISE_COPIES, -1)
    energy = problem.energy(points)
    assert scale == 1.0
    assert spec.action_size == 2
    np.testing.assert_allclose(reward.mean(axis=0), energy, atol=5 * 0.5 / NOISE_COPIES**0.5)
    np.testing.assert_allclose((reward - energy).std(), 0.5, rtol=0.02)
    np.testing.assert_allclose(np.asarray(data.action)[: len(points)], points, rtol=1e-6)


@pytest.mark.long
def test_value_error_is_that_of_the_networks_constant():
    """A value network that is 0 everywhere is wrong by V*."""
    import jax

    trained = tiny("bdpo")
    silent = jax.tree.map(jnp.zeros_like, trained.state.target_critics)
    state = trained.state._replace(target_critics=silent)
    expected = get_problem("8gaussians").v_star(0.06)
    assert value_error(trained._replace(state=state)) == pytest.approx(expected, abs=1e-3)


@pytest.mark.long
def test_chain_ends_where_the_schedule_ends():
    trained = tiny("bdpo")
    paths = chain(trained, 5)
    assert paths.shape == (4, 5, 2)  # n = 0 .. 3
    assert not np.allclose(paths[3], paths[0])


def test_a_run_that_diverges_says_so_and_keeps_the_last_finite_state():
    trained = tiny("dac", learning_rate=1e30)
    assert trained.diverged_at is not None
    assert np.isfinite(np.asarray(trained.state.eta)).all()


@pytest.mark.long
def test_bandit_command_prints_scores_and_draws(tmp_path, capsys):
    out = tmp_path / "picture.png"
    words = [
        f"{name}={','.join(map(str, v)) if isinstance(v, tuple) else v}" for name, v in (TINY | NETWORKS["dac"]).items()
    ]
    with pytest.raises(SystemExit) as stop:
        main(["bandit", "dac", "dac-three", "--set", *words, "--out", str(out), "--quiet"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    for word in ("ideal", "data", "target", "energy distance", str(out)):
        assert word in printed
    assert matplotlib.image.imread(out).shape[1] > 500


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["dac", "8gausians"], "8gaussians"),
        (["dax", "8gaussians"], "dac"),
        (["dac"], "name a problem"),
        (["gallery", "--only", "dac-3"], "dac-2"),
        (["dac", "8gaussians", "--set", "etta=1"], "eta_init"),
        (["dac", "8gaussians", "--out", "missing/x.png"], "--out missing/x.png: there is no folder"),
        (["dac", "8gaussians", "--seed", "-1"], "seed -1: must be from 0"),
        (["dac", "8gaussians", "--set", "points=-5"], "points -5: must be at least 1"),
        (["dac", "8gaussians", "--set", "points=0"], "points 0: must be at least 1"),
        (["dac", "8gaussians", "--set", "batch_size=0"], "batch_size 0: must be at least 1"),
        (["dac", "8gaussians", "--set", "box=0"], "box 0.0: must be above 0"),
        (["gallery", "dac-two"], "dac-two is not of the gallery"),
        (["gallery", "--updates", "3"], "--updates is not of the gallery"),
        (["gallery", "--seed", "3"], "--seed is not of the gallery"),
        (["gallery", "--set", "a=1"], "--set is not of the gallery"),
        (["gallery", "--settings", "published"], "--settings is not of the gallery"),
        (["gallery", "--precision", "bfloat16"], "--precision is not of the gallery"),
        (["dac", "8gaussians", "--only", "dac-2"], "--only is of the gallery alone"),
        (["dac", "8gaussians", "--fresh"], "--fresh is of the gallery alone"),
    ],
)
def test_wrong_words_end_in_one_line(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["bandit", *words])
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert message in error
    assert "Traceback" not in error


def test_bandit_alone_lists_the_problems(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["bandit"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in PROBLEMS)


@pytest.fixture
def small_gallery(monkeypatch):
    """Two figures of two runs each, one shared, of tiny networks; yields (settings, the runs that were trained)."""
    changes: dict = {"train_updates": 12}
    trained: list[str] = []

    def settings(algorithm, problem, kind):
        return bandit_settings(algorithm, problem, kind) | TINY | NETWORKS[algorithm] | changes

    def train(algorithm, problem, settings, **more):
        trained.append(problem.name)
        return train_bandit(algorithm, problem, settings, **more)

    one, two, three = (gallery.Run("dac", name) for name in ("dac-two", "dac-three", "8gaussians"))
    figures = {
        "one": gallery.Figure("First", (one, two), gallery.FIGURES["bdpo-14"].draw),
        "two": gallery.Figure("Second", (two, three), gallery.FIGURES["bdpo-14"].draw),
    }
    monkeypatch.setattr(gallery, "bandit_settings", settings)
    monkeypatch.setattr(gallery, "train_bandit", train)
    monkeypatch.setattr(gallery, "FIGURES", figures)
    monkeypatch.setattr(gallery, "_references", lambda problem: [])
    return changes, trained


@pytest.mark.long
def test_the_gallery_goes_on_where_it_was_and_redraws_what_has_changed(tmp_path, small_gallery, capsys):
    changes, trained = small_gallery
    gallery.draw_gallery(tmp_path, ["one"])
    assert trained == ["dac-two", "dac-three"]
    trained[:] = []
    gallery.draw_gallery(tmp_path)
    assert trained == ["8gaussians"]  # figure one is there, the run that figure two shares with it is kept
    assert "figure 2 of 2, two, run 1 of 2: dac dac-three fair, kept" in capsys.readouterr().err
    assert {"## one", "## two"} <= set((tmp_path / "tables.md").read_text().splitlines())
    pictures = {name: (tmp_path / name).read_bytes() for name in ("one.png", "two.png")}
    trained[:] = []
    gallery.draw_gallery(tmp_path)
    assert trained == []
    gallery.draw_gallery(tmp_path, ["two"], fresh=True)
    assert trained == ["dac-three", "8gaussians"]
    assert (tmp_path / "two.png").read_bytes() == pictures["two.png"]
    trained[:] = []
    changes["learning_rate"] = 2e-3
    gallery.draw_gallery(tmp_path)
    assert trained == ["dac-two", "dac-three", "8gaussians"]
    assert (tmp_path / "one.png").read_bytes() != pictures["one.png"]


def test_a_kept_run_is_the_trained_one(tmp_path):
    trained, problem = tiny("dac"), get_problem("8gaussians")
    settings = bandit_settings("dac", "8gaussians", "fair") | TINY | NETWORKS["dac"]
    assert load_trained(tmp_path / "it", "dac", problem, settings) is None
    save_trained(tmp_path / "it", trained)
    kept = load_trained(tmp_path / "it", "dac", problem, settings)
    assert kept is not None
    assert (kept.diverged_at, kept.seconds) == (None, trained.seconds)
    np.testing.assert_array_equal(kept.sample(20), trained.sample(20))
    diverged = trained._replace(diverged_at=7)
    save_trained(tmp_path / "it", diverged)
    kept = load_trained(tmp_path / "it", "dac", problem, settings)
    assert kept is not None
    assert kept.diverged_at == 7


def test_gallery_tables_show_every_figures_numbers(tmp_path):
    row = {"problem": "moons", "method": "bdpo", "closed": 0.97, "energy_distance": 0.01, "diverged_at": None}
    (tmp_path / "bdpo-5.json").write_text(
        json.dumps(
            {
                "rows": [row, row | {"method": "other", "diverged_at": 1200}],
                "processor_seconds": {"a": 60, "b": 119},
            }
        )
    )
    text = tables(tmp_path)
    assert "## bdpo-5" in text
    assert "| moons | bdpo | 0.970 | 0.010 |" in text
    assert "other, diverged at 1,200" in text
    assert "Training: 2 runs, 3 minutes of processor time." in text
    assert all(name not in text for name in FIGURES if name != "bdpo-5")


def test_a_panel_says_how_many_samples_left_it():
    problem = get_problem("8gaussians")
    data = problem.sample(200, np.random.default_rng(0))
    _, half = grid(problem, data)
    samples = np.zeros((10, 2), np.float32)
    samples[:3, 1] = -2 * half
    _, axes = new_panels(1, 2)
    draw_panel(axes[0, 0], Panel(problem, "policy", data, [samples]))
    draw_panel(axes[0, 1], Panel(problem, "policy", data, [np.zeros((10, 2), np.float32)]))
    assert axes[0, 0].get_xlabel() == "outside, on the edge: 30%"
    assert axes[0, 1].get_xlabel() == ""
    drawn = np.asarray(axes[0, 0].collections[-1].get_offsets())
    assert len(drawn) == 10
    assert (np.abs(drawn) < half).all()


def test_a_title_wider_than_its_figure_is_wrapped():
    title = "a title of so many words that no panel alone is wide enough for all of them"
    narrow, _ = new_panels(1, 1)
    wide, _ = new_panels(1, 6)
    for figure, lines in ((narrow, 2), (wide, 1)):
        write_title(figure, title)
        assert len(figure.get_suptitle().splitlines()) == lines
