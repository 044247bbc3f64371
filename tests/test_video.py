"""A film is written whole or not at all, and never ends an evaluation."""

import dataclasses
import json
import subprocess
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from make_data import copy_run

import tether
from tether import InputError
from tether.evaluation import rollout, video

pytest.importorskip("imageio_ffmpeg")


class Painted(gymnasium.Wrapper):
    """Renders without a renderer: a column that moves to the right."""

    def render(self) -> Any:
        self.drawn = getattr(self, "drawn", -1) + 1
        picture = np.zeros((48, 64, 3), np.uint8)
        picture[:, min(self.drawn, 63)] = 255
        return picture


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run whose episodes have 40 steps and need no graphics."""
    folder = copy_run(tmp_path / "run")  # before episodes are cut: it may be made here, for other tests too
    make = rollout.make_environment

    def short(task: Any) -> Any:
        options = {name: value for name, value in task.options.items() if name != "render_mode"}
        return Painted(make(dataclasses.replace(task, horizon=40, options=options)))

    monkeypatch.setattr(rollout, "make_environment", short)
    monkeypatch.setattr(video, "make_environment", short)
    return folder


def test_a_film_and_its_sheet(run: Path, tmp_path: Path):
    import imageio_ffmpeg
    from matplotlib import image

    lengths = tether.evaluate(run, episodes=1, quiet=True, video=tmp_path / "out.mp4")[0].lengths
    ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-i", tmp_path / "out.mp4"]
    raw = subprocess.run([*ffmpeg, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"], capture_output=True, check=True).stdout
    pictures = np.frombuffer(raw, np.uint8).reshape(-1, 48, 64, 3)
    every = -(-125 // 30)  # Hopper steps 125 times a second
    assert len(pictures) in {-(-(length + 1) // every) for length in lengths.ravel()}
    brightest = [int(picture.mean(axis=(0, 2)).argmax()) for picture in pictures]
    assert brightest == sorted(brightest)
    assert brightest[-1] > brightest[0]
    assert image.imread(tmp_path / "out.png").shape[:2] == (3 * 48, 4 * 64)


def test_a_failed_render_ends_nothing(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    paint = Painted.render

    def fail(self: Any) -> Any:
        if getattr(self, "drawn", 0) > 5:
            raise RuntimeError("no OpenGL here")
        return paint(self)

    monkeypatch.setattr(Painted, "render", fail)
    outcome, _ = tether.evaluate(run, episodes=1, quiet=True, video=tmp_path / "out.mp4")
    assert np.isfinite(outcome.returns).all()
    assert "no video in" in (text := capsys.readouterr().err)
    assert "MUJOCO_GL" in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]
    assert json.loads(next(run.glob("evaluate-*-1.json")).read_text())["task"]


def test_a_place_that_cannot_be_is_refused_before_anything_is_played(tmp_path: Path):
    with pytest.raises(InputError, match=r"ends with \.mp4"):
        tether.evaluate(tmp_path, video="out.gif")
    with pytest.raises(InputError, match="there is no folder"):
        tether.evaluate(tmp_path, video=tmp_path / "nowhere" / "out.mp4")
