"""A film of one episode, and a sheet of its pictures. Where there is no display, MuJoCo renders through EGL."""

import contextlib
import dataclasses
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tether.environments import Task
from tether.environments.make import make_environment
from tether.errors import InputError
from tether.machine.files import temporary_path

if TYPE_CHECKING:
    import gymnasium

__all__ = ["Camera", "check_video", "contact_sheet_path", "prepare_rendering"]

MOST_FPS = 30  # of the film; simulators that step faster are shown in real time by leaving pictures out
SHEET = 12  # pictures on the sheet, three rows of four
FORMATS = {".mp4": "mp4", ".mkv": "matroska", ".mov": "mov", ".webm": "webm"}  # ending -> ffmpeg's name


def check_video(path: Path) -> None:
    """Raises InputError where a film cannot be written there: another ending, no folder, no ffmpeg."""
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"--video {path}: name a file that ends with {', '.join(FORMATS)}")
    if not path.absolute().parent.is_dir():
        raise InputError(f"--video {path}: there is no folder {path.absolute().parent}")
    try:
        import imageio_ffmpeg  # noqa: F401
    except ImportError:
        raise InputError(f"--video {path}: needs imageio-ffmpeg: pip install 'tether-rl[video]'") from None


def prepare_rendering() -> None:
    """Have MuJoCo render without a display, which it decides where it is imported first."""
    if sys.platform == "linux" and "DISPLAY" not in os.environ and "mujoco" not in sys.modules:
        os.environ.setdefault("MUJOCO_GL", "egl")


def contact_sheet_path(video: Path) -> Path:
    """Beside the film, with its name."""
    return video.with_suffix(".png")


class Camera:
    """Films the environments that it makes, one after the other: `make` is for `rollout`."""

    def __init__(self, path: Path):
        self.path = path
        self._writer: Any = None  # ffmpeg, once there is a picture
        self._fps = float(MOST_FPS)
        self._temporary = temporary_path(path)
        self._every = 1  # pictures of the simulator to one of the film
        self._seen = 0
        self._kept: list[np.ndarray] = []  # at equal distances; every other is dropped when there are too many
        self._distance = 1

    def make(self, task: Task) -> "gymnasium.Env":
        """The task's environment, filmed."""
        environment = make_environment(dataclasses.replace(task, options={**task.options, "render_mode": "rgb_array"}))
        fps = float(environment.metadata.get("render_fps") or MOST_FPS)
        self._every = math.ceil(fps / MOST_FPS)
        self._fps = fps / self._every
        return _filmed(environment, self._show)

    @contextlib.contextmanager
    def filming(self) -> Iterator["Camera"]:
        """Write film and sheet when the block ends; neither where it fails."""
        try:
            yield self
            if self._writer is None:
                raise InputError("nothing was rendered")
            complaints = self._writer.communicate()[1]
            if self._writer.returncode:
                raise InputError(f"ffmpeg: {complaints.decode(errors='replace')[-200:]}")
            os.replace(self._temporary, self.path)
            self._write_sheet()
        finally:
            if self._writer is not None:
                self._writer.kill()
                self._writer.communicate()
            self._temporary.unlink(missing_ok=True)

    def _show(self, picture: Any) -> None:
        """A picture of the simulator."""
        self._seen += 1
        if (self._seen - 1) % self._every:
            return
        frame = np.ascontiguousarray(np.asarray(picture)[..., :3], np.uint8)
        frame = frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2]  # which H.264 needs
        if self._writer is None:
            self._writer = _ffmpeg(
                self._temporary, FORMATS[self.path.suffix.lower()], frame.shape[1], frame.shape[0], self._fps
            )
        self._writer.stdin.write(frame.tobytes())
        if (self._seen - 1) // self._every % self._distance == 0:
            self._kept.append(frame)
            if len(self._kept) >= 2 * SHEET:
                self._kept, self._distance = self._kept[::2], 2 * self._distance

    def _write_sheet(self) -> None:
        from matplotlib import image

        chosen = [self._kept[i] for i in np.linspace(0, len(self._kept) - 1, SHEET).round().astype(int)]
        rows = [np.concatenate(chosen[start : start + 4], axis=1) for start in range(0, SHEET, 4)]
        image.imsave(contact_sheet_path(self.path), np.concatenate(rows, axis=0))


def _ffmpeg(path: Path, format: str, width: int, height: int, fps: float) -> subprocess.Popen[bytes]:
    """What writes the film, of pictures on its stdin. Not by imageio_ffmpeg's own writer, which forks beside JAX."""
    import imageio_ffmpeg

    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", f"{fps:g}", "-i", "-"]
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        "-y",
        "-loglevel",
        "error",
        *raw,
        "-an",
        "-pix_fmt",
        "yuv420p",
        "-f",
        format,
        str(path),
    ]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def _filmed(environment: "gymnasium.Env", show: Callable[[Any], None]) -> "gymnasium.Env":
    import gymnasium

    class Filmed(gymnasium.Wrapper):
        """Shows every state."""

        def reset(self, **how: Any) -> Any:
            result = self.env.reset(**how)
            show(self.env.render())
            return result

        def step(self, action: Any) -> Any:
            result = self.env.step(action)
            show(self.env.render())
            return result

    return Filmed(environment)
