"""Learning curves are drawn for whatever runs produce, without touching pyplot's global state."""

import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tether.errors import InputError
from tether.plots.curves import Curve, _apart, plot_curves, short_count

NAN = float("nan")


def make_curve(lanes: int, points: int, label: str = "dtql") -> Curve:
    generator = np.random.default_rng(lanes)
    updates = 1000 * (1 + np.arange(points))
    return Curve(label, updates, 50 + generator.normal(size=(lanes, points)))


def draw(path: Path, *curves: Curve, behaviour: float | None = 40.0) -> bytes:
    plot_curves(path, list(curves), behaviour, "normalised score", "hopper-medium-v2")
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", data[16:24]) == (1280, 720)
    assert [other.name for other in path.parent.iterdir()] == [path.name]  # nothing temporary is left
    return data


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
    draw(tmp_path / "curve.png", Curve("dtql", np.array([1, 2, 3]), np.array(scores)), behaviour=behaviour)


def test_same_input_same_bytes(tmp_path: Path) -> None:
    assert draw(tmp_path / "curve.png", make_curve(2, 5)) == draw(tmp_path / "curve.png", make_curve(2, 5))


def test_behaviour_line_is_drawn(tmp_path: Path) -> None:
    with_line, without = (draw(tmp_path / "curve.png", make_curve(2, 5), behaviour=b) for b in (50.0, None))
    assert with_line != without


def test_unfit_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no curve"):
        plot_curves(tmp_path / "curve.png", [], None, "score")
    for updates, scores in ((2, (3,)), (2, (1, 3)), (0, (1, 0)), (3, (0, 3))):
        with pytest.raises(InputError, match="'dtql'"):
            Curve("dtql", np.arange(updates), np.ones(scores))


def test_labels_are_moved_apart_and_no_further() -> None:
    np.testing.assert_allclose(_apart(np.array([0.9, 0.1, 0.5]), 0.1), [0.9, 0.1, 0.5])
    np.testing.assert_allclose(_apart(np.array([0.5, 0.5, 0.1]), 0.1), [0.45, 0.55, 0.1])
    generator = np.random.default_rng(0)
    for _ in range(50):
        heights = generator.uniform(size=8)
        apart = _apart(heights, 0.05)
        assert (np.argsort(apart) == np.argsort(heights)).all()
        assert np.diff(np.sort(apart)).min() > 0.05 - 1e-9


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (500.0, "500"), (1500.0, "1.5k"), (1e6, "1M"), (2.5e6, "2.5M")]
)
def testshort_counts(value: float, text: str) -> None:
    assert short_count(value) == text


def test_pyplot_is_not_imported() -> None:
    code = "import sys, tether.plots.curves; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
