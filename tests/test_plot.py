"""Learning curves are drawn for whatever runs produce, without touching pyplot's global state."""

import dataclasses
import itertools
import re
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from tether.errors import InputError
from tether.plots import curves as module
from tether.plots.curves import Curve, Style, _apart, plot_curves, plot_panels
from tether.plots.figures import FORMATS, picture_format, short_count
from tether.plots.timeline import plot_timeline
from tether.plots.tradeoff import Point, plot_tradeoff

NAN = float("nan")


def curve_of(label: str, updates: np.ndarray, lanes: np.ndarray, episodes: int = 10) -> Curve:
    """A curve with a band of one on either side of the middle."""
    some = np.isfinite(lanes).any(axis=0)
    middle = np.full(len(updates), NAN)
    middle[some] = np.nanmean(lanes[:, some], axis=0)
    return Curve(label, updates, middle, middle - 1, middle + 1, lanes, episodes)


def make_curve(lanes: int, points: int, label: str = "dtql") -> Curve:
    generator = np.random.default_rng(lanes)
    return curve_of(label, 1000 * (1 + np.arange(points)), 50 + generator.normal(size=(lanes, points)))


def draw(path: Path, *curves: Curve, behaviour: float | None = 40.0) -> bytes:
    plot_curves(path, list(curves), behaviour, "normalised score", "hopper-medium-v2")
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    if len(curves) == 1:
        assert struct.unpack(">II", data[16:24]) == (1280, 720)
    assert [other.name for other in path.parent.iterdir()] == [path.name]  # nothing temporary is left
    return data


def figure_of(monkeypatch: pytest.MonkeyPatch, curves: list[Curve], behaviour: float | None = 40.0) -> Figure:
    """What `plot_curves` would have written."""
    drawn: list[Figure] = []
    monkeypatch.setattr(module, "save_figure", lambda figure, path: drawn.append(figure))
    plot_curves(Path("curve.png"), curves, behaviour, "normalised score", "hopper-medium-v2")
    return drawn[0]


@pytest.mark.parametrize(("lanes", "points"), [(1, 1), (3, 1), (1, 3), (8, 100), (64, 5)])
def test_sizes(tmp_path: Path, lanes: int, points: int) -> None:
    data = draw(tmp_path / "curve.png", make_curve(lanes, points))
    assert len(data) > 10_000


def test_many_curves_and_labels_that_look_like_formulas(tmp_path: Path) -> None:
    curves = [make_curve(2, 4, label) for label in ("a $\\broken$", "x" * 80, "", *map(str, range(9)))]
    draw(tmp_path / "curve.png", *curves)


@pytest.mark.parametrize(
    "scores",
    [
        [[1.0, 2.0, 3.0], [1.0, NAN, NAN]],
        [[1.0, NAN, NAN]],
        [[NAN, NAN, NAN], [NAN, 1.0, NAN]],
        [[NAN, NAN, NAN]],
        [[1.0, float("inf"), 2.0]],
    ],
)
@pytest.mark.parametrize("behaviour", [None, 1.5])
def test_diverged_lanes(tmp_path: Path, scores: list[list[float]], behaviour: float | None) -> None:
    scored = np.where(np.isfinite(scores), scores, NAN)
    draw(tmp_path / "curve.png", curve_of("dtql", np.array([1, 2, 3]), scored), behaviour=behaviour)


def test_same_input_same_bytes(tmp_path: Path) -> None:
    assert draw(tmp_path / "curve.png", make_curve(2, 5)) == draw(tmp_path / "curve.png", make_curve(2, 5))


def test_behaviour_line_is_drawn(tmp_path: Path) -> None:
    with_line, without = (draw(tmp_path / "curve.png", make_curve(2, 5), behaviour=b) for b in (50.0, None))
    assert with_line != without


def test_unfit_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no curve"):
        plot_curves(tmp_path / "curve.png", [], None, "score", "")
    for updates, scores in ((2, (3,)), (2, (1, 3)), (0, (1, 0)), (3, (0, 3))):
        with pytest.raises(InputError, match="'dtql'"):
            Curve("dtql", np.arange(updates), *np.ones((3, updates)), np.ones(scores), 10)  # pyright: ignore[reportCallIssue]
    with pytest.raises(InputError, match="'dtql'"):
        Curve("dtql", np.arange(2), np.ones(3), np.ones(2), np.ones(2), np.ones((1, 2)), 10)


def test_labels_are_moved_apart_and_no_further() -> None:
    np.testing.assert_allclose(_apart(np.array([0.9, 0.1, 0.5]), 0.1), [0.9, 0.1, 0.5])
    np.testing.assert_allclose(_apart(np.array([0.5, 0.5, 0.1]), 0.1), [0.45, 0.55, 0.1])
    generator = np.random.default_rng(0)
    for _ in range(50):
        heights = generator.uniform(size=8)
        apart = _apart(heights, 0.05)
        assert (np.argsort(apart) == np.argsort(heights)).all()
        assert np.diff(np.sort(apart)).min() > 0.05 - 1e-9
        assert apart.min() >= 0
        assert apart.max() <= 1 + 1e-9


@pytest.mark.parametrize("ending", FORMATS)
def test_a_picture_has_the_format_of_its_name(tmp_path: Path, ending: str) -> None:
    beginning = {"pdf": b"%PDF", "png": b"\x89PNG", "svg": b"<?xml"}[ending]
    point = Point("bc", 1.0, 2.0, 1.0, 3.0, "cloning")
    curves = [make_curve(2, 3)]
    drawings = {
        "curves": lambda path: plot_curves(path, curves, 1.0, "return", ""),
        "panels": lambda path: plot_panels(path, curves, ["dtql"], 1.0, "return", ""),
        "tradeoff": lambda path: plot_tradeoff(path, [point], 1.0, cost_label="", title="", caption=""),
        "timeline": lambda path: plot_timeline(path, "", [("training", "train", 0.0, 1.0)]),
    }
    for name, draw_to in drawings.items():
        first, second = (tmp_path / f"{name}-{number}.{ending}" for number in (1, 2))
        draw_to(first)
        draw_to(second)
        assert first.read_bytes().startswith(beginning), name
        assert first.read_bytes() == second.read_bytes(), name
        assert not re.search(rb"20\d\d-\d\d-\d\dT|CreationDate", first.read_bytes()), name


@pytest.mark.parametrize("name", ["curve.jpg", "curve", "curve.png.txt", ".png"])
def test_other_endings_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"one of \.pdf, \.png, \.svg"):
        plot_curves(tmp_path / name, [make_curve(1, 2)], None, "score", "")
    assert not list(tmp_path.iterdir())
    assert picture_format(Path("CURVE.SVG")) == "svg"


def test_what_is_in_the_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = figure_of(monkeypatch, [make_curve(1, 5, "dtql")], behaviour=44.4)
    axes, gutter = figure.axes
    assert axes.get_xlim()[0] == 0
    assert axes.get_ylabel() == "normalised score (0: random policy, 100: expert)"
    assert (axes.get_title(loc="left"), [text.get_text()[:4] for text in gutter.texts]) == (
        "hopper-medium-v2",
        ["dtql", "beha"],
    )
    assert len(axes.collections) == 1  # one lane has a band, too
    caption = figure.get_supxlabel()
    for words in ("interquartile mean of 1 lane x 10 episodes", "95 % bootstrap interval over the episodes", "dashed"):
        assert words in caption.replace("\n", " ")
    assert gutter.texts[1].get_text() == "behaviour (the data)  44.4"


def test_twenty_runs_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    curves = [make_curve(3, 6, f"algorithm-{number}") for number in range(20)]  # all of nearly the same score
    figure = figure_of(monkeypatch, curves)
    axes, gutter = figure.axes
    figure.draw_without_rendering()
    boxes = sorted((text.get_window_extent() for text in gutter.texts), key=lambda box: box.y0)
    assert len(boxes) == 21
    assert all(lower.y1 <= upper.y0 for lower, upper in itertools.pairwise(boxes))
    inside = figure.bbox
    assert all(
        inside.x0 <= box.x0 and box.x1 <= inside.x1 + 1 and inside.y0 <= box.y0 and box.y1 <= inside.y1 for box in boxes
    )
    assert not axes.collections  # no bands: they would hide the lines; the intervals stand in the labels
    assert all("[" in text.get_text() for text in gutter.texts[:20])
    styles = [Style.number(index) for index in range(28)]
    assert len({(style.dashes, style.marker) for style in styles}) == 28  # in grey, too
    for one in range(7):  # neighbours of a picture with few lines differ in colour by enough
        for other in range(one):
            difference = np.subtract(to_rgb(styles[one].colour), to_rgb(styles[other].colour))
            assert np.linalg.norm(difference) > 0.25


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (500.0, "500"), (1500.0, "1.5k"), (1e6, "1M"), (2.5e6, "2.5M")]
)
def test_short_counts(value: float, text: str) -> None:
    assert short_count(value) == text


def test_pyplot_is_not_imported() -> None:
    code = "import sys, tether.plots.curves, tether.plots.figures; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_line_marks_where_a_policy_went_online(monkeypatch: pytest.MonkeyPatch) -> None:
    offline, online = make_curve(2, 6, "iql"), make_curve(2, 6, "iql, fine-tuned")
    figure = figure_of(monkeypatch, [offline, dataclasses.replace(online, online_from=3000)])
    dotted = [line for line in figure.axes[0].lines if list(line.get_xdata()) == [3000, 3000]]
    assert len(dotted) == 1
    assert "dotted: online from there on" in figure._supxlabel.get_text().replace("\n", " ")
    assert "dotted" not in figure_of(monkeypatch, [offline])._supxlabel.get_text()
