"""D4RL by name against a server on the loopback that breaks, lies, changes and refuses."""

import dataclasses
import hashlib
import http.server
import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tether import InputError, load_dataset
from tether.data import Downloads
from tether.data.readers import download
from tether.data.readers.d4rl_names import D4RL_FILES, d4rl_file
from tether.environments import d4rl_datasets, find_task

NAME = "hopper-medium-v2"
FILE = "gym_mujoco_v2/hopper_medium-v2.hdf5"


def hdf5(seed: int = 0, rows: int = 1500) -> bytes:
    """A D4RL file with random rows; the same size for every seed."""
    rng = np.random.default_rng(seed)
    file = io.BytesIO()
    with h5py.File(file, "w") as out:
        out["observations"] = rng.normal(size=(rows, 11)).astype(np.float32)
        out["actions"] = rng.uniform(-1, 1, size=(rows, 3)).astype(np.float32)
        out["rewards"] = rng.normal(size=rows).astype(np.float32)
        out["terminals"] = np.zeros(rows, bool)
        out["timeouts"] = np.arange(rows) % 100 == 99
    return file.getvalue()


CONTENT = hdf5()


class Server(http.server.ThreadingHTTPServer):
    """Serves `content` at any path, with the faults that a test sets; `requests` is what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.etag: str | None = '"one"'
        self.ranges = True  # honours Range
        self.conditions = True  # honours If-Range
        self.statuses: list[int] = []  # of the first answers
        self.breaks: list[int | None] = []  # bytes after which the first answers stop
        self.stated_size: int | None = None  # in Content-Length
        self.sized = True
        self.on_request: Callable[[int], None] = lambda number: None
        self.requests: list[tuple[str, dict[str, str]]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def asked(self, header: str) -> list[str | None]:
        """This header of every request."""
        return [headers.get(header) for _, headers in self.requests]


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self) -> None:
        server = self.server
        server.requests.append((self.path, dict(self.headers)))
        number = len(server.requests) - 1
        server.on_request(number)
        status = server.statuses[number] if number < len(server.statuses) else 200
        if status >= 400:
            self.send_error(status)
            return
        start = self._start()
        if start is not None and start >= len(server.content):
            self.send_error(416)
            return
        body = server.content[start or 0 :]
        self.send_response(200 if start is None else 206)
        if server.etag:
            self.send_header("ETag", server.etag)
        if start is not None:
            end = len(server.content)
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{end}")
        if server.sized:
            self.send_header("Content-Length", str(server.stated_size or len(body)))
        self.end_headers()
        stop = server.breaks[number] if number < len(server.breaks) else None
        self.wfile.write(body[:stop])

    def _start(self) -> int | None:
        """The first byte asked for, where a part is asked for and may be given."""
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        same = self.headers.get("If-Range") in (None, self.server.etag) or not self.server.conditions
        return int(match.group(1)) if match and same and self.server.ranges else None

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(download, "PAUSES", (0.0, 0.0, 0.0))
    monkeypatch.setenv("no_proxy", "*")
    for name in ("TETHER_CACHE", "TETHER_OFFLINE", "TETHER_D4RL_MIRRORS"):
        monkeypatch.delenv(name, raising=False)
    with Server() as it:
        thread = threading.Thread(target=it.serve_forever, args=(0.01,))
        thread.start()
        yield it
        it.shutdown()
        thread.join()


@pytest.fixture
def settings(server: Server, tmp_path: Path) -> Downloads:
    return Downloads(mirrors=(server.address,), cache=tmp_path / "cache", quiet=True)


def load(settings: Downloads) -> None:
    """Load, and see that what arrived is the whole file."""
    data = load_dataset(f"d4rl:{NAME}", downloads=settings)
    assert data.source.sha256 == hashlib.sha256((settings.cache / "d4rl" / FILE).read_bytes()).hexdigest()


def refused(settings: Downloads) -> str:
    with pytest.raises(InputError) as caught:
        load_dataset(f"d4rl:{NAME}", downloads=settings)
    assert "\n" not in str(caught.value)
    assert NAME in str(caught.value) or "pins.json" in str(caught.value)
    return str(caught.value)


def files(settings: Downloads) -> set[str]:
    """What lies in the cache."""
    return {str(p.relative_to(settings.cache)) for p in settings.cache.rglob("*") if p.is_file() and p.name != ".lock"}


WHOLE = {f"d4rl/{FILE}", "pins.json"}


# --- what should happen -------------------------------------------------------------------------------------


def test_a_data_set_by_name(server: Server, settings: Downloads) -> None:
    data = load_dataset("d4rl:hopper_medium-v2", downloads=settings)  # D4RL's other spelling
    assert data.name == NAME
    assert data.source.location == f"d4rl:{NAME}"  # what `tether resume` loads again
    assert data.source.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert len(data) == 1500
    assert [path for path, _ in server.requests] == [f"/{FILE}"]
    assert files(settings) == WHOLE
    pin = json.loads((settings.cache / "pins.json").read_text())["files"][FILE]
    assert (pin["sha256"], pin["size"]) == (data.source.sha256, len(CONTENT))
    load(settings)
    assert len(server.requests) == 1  # the second time nobody is asked


def test_settings_come_from_the_environment(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TETHER_CACHE", str(tmp_path / "there"))
    monkeypatch.setenv("TETHER_D4RL_MIRRORS", f"{server.address}/gone/{{file}}, {server.address}/below/")
    server.statuses = [404]
    load_dataset(f"d4rl:{NAME}")
    assert [path for path, _ in server.requests] == ["/gone/hopper_medium-v2.hdf5", f"/below/{FILE}"]
    assert (tmp_path / "there" / "d4rl" / FILE).read_bytes() == CONTENT
    out, err = capfd.readouterr()
    assert out == ""  # results go to stdout, progress does not
    assert NAME in err
    monkeypatch.setenv("TETHER_OFFLINE", "maybe")
    with pytest.raises(InputError, match="TETHER_OFFLINE='maybe': write 1 or 0"):
        Downloads()
    monkeypatch.setenv("TETHER_OFFLINE", "1")
    monkeypatch.delenv("TETHER_D4RL_MIRRORS")
    monkeypatch.delenv("TETHER_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    default = Downloads()
    assert default.offline
    assert default.cache == tmp_path / ".cache" / "tether"
    assert default.mirrors == ("http://rail.eecs.berkeley.edu/datasets/offline_rl",)


def test_a_broken_transfer_goes_on_where_it_stopped(server: Server, settings: Downloads) -> None:
    server.breaks = [20_000, 30_000]
    load(settings)
    assert server.asked("Range") == [None, "bytes=20000-", "bytes=50000-"]
    assert server.asked("If-Range") == [None, '"one"', '"one"']
    assert (settings.cache / "d4rl" / FILE).read_bytes() == CONTENT
    assert files(settings) == WHOLE


def test_an_interrupted_process_goes_on_where_it_stopped(server: Server, settings: Downloads) -> None:
    server.breaks = [20_000]

    def interrupt(number: int) -> None:
        if number == 1:
            server.statuses = [200, 403]

    server.on_request = interrupt
    assert "HTTP 403" in refused(settings)
    assert files(settings) == {f"d4rl/{FILE}.part", f"d4rl/{FILE}.part.json"}
    server.on_request, server.statuses = lambda number: None, []
    load(settings)
    assert server.asked("Range")[-1] == "bytes=20000-"
    assert files(settings) == WHOLE


def test_a_crash_before_the_file_gets_its_name(
    server: Server, settings: Downloads, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every byte has arrived and been synced, the name is not given yet: nothing is asked again."""
    synced, sync = [], os.fsync

    def crash(part: Path, target: Path) -> None:
        assert part.read_bytes() == CONTENT
        assert synced[-1] == part.stat().st_ino
        raise KeyboardInterrupt

    def record(descriptor: int) -> None:
        sync(descriptor)
        synced.append(os.fstat(descriptor).st_ino)

    with monkeypatch.context() as patch:
        patch.setattr(download.os, "replace", crash)
        patch.setattr(download.os, "fsync", record)
        patch.setattr(download, "atomic_write_json", lambda path, value: path.write_text(json.dumps(value)))
        with pytest.raises(KeyboardInterrupt):
            load(settings)
    assert files(settings) == {f"d4rl/{FILE}.part", f"d4rl/{FILE}.part.json"}
    load(settings)
    assert len(server.requests) == 1
    assert files(settings) == WHOLE


def test_nothing_half_written_bears_the_name(server: Server, settings: Downloads) -> None:
    """While bytes arrive, whoever looks at the file's name finds nothing; afterwards the whole file."""
    seen = []
    server.breaks = [20_000, 30_000]
    server.on_request = lambda number: seen.append((settings.cache / "d4rl" / FILE).exists())
    load(settings)
    assert seen == [False, False, False]


def test_concurrent_processes_fetch_once(server: Server, settings: Downloads) -> None:
    threads = [threading.Thread(target=load, args=(settings,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.requests) == 1
    assert files(settings) == WHOLE


# --- servers that are not as they should be -----------------------------------------------------------------


def test_a_server_that_ignores_ranges_starts_over(server: Server, settings: Downloads) -> None:
    server.ranges = False
    server.breaks = [20_000]
    load(settings)
    assert server.asked("Range") == [None, "bytes=20000-"]


@pytest.mark.parametrize("etag", ['"one"', 'W/"one"'])
@pytest.mark.parametrize("conditions", [True, False])
@pytest.mark.parametrize("same_size", [True, False])
def test_a_file_that_changes_between_parts(
    server: Server, settings: Downloads, etag: str, conditions: bool, same_size: bool
) -> None:
    """Never a mixture of two versions, whether the server honours If-Range or sends the rest of the new one."""
    server.etag, server.conditions, server.breaks = etag, conditions, [20_000]
    changed = hdf5(seed=1) if same_size else hdf5(seed=1, rows=2000)

    def change(number: int) -> None:
        if number == 1:
            server.content, server.etag = changed, etag.replace("one", "two")

    server.on_request = change
    load(settings)
    assert (settings.cache / "d4rl" / FILE).read_bytes() == changed


def test_a_file_that_shrinks_between_parts(server: Server, settings: Downloads) -> None:
    server.breaks = [60_000]
    server.conditions = False
    smaller = hdf5(seed=1, rows=800)
    assert len(smaller) < 60_000

    def change(number: int) -> None:
        if number == 1:
            server.content, server.etag = smaller, '"two"'  # what is asked for lies behind its end: 416

    server.on_request = change
    load(settings)
    assert server.asked("Range") == [None, "bytes=60000-", None]


def test_without_a_version_nothing_is_pieced_together(server: Server, settings: Downloads) -> None:
    server.etag, server.breaks = None, [20_000]
    load(settings)
    assert server.asked("Range") == [None, None]


@pytest.mark.parametrize("status", [403, 404])
def test_refusals_are_named_and_the_next_mirror_is_asked(
    server: Server, settings: Downloads, status: int, tmp_path: Path
) -> None:
    server.statuses = [status]
    message = refused(settings)
    assert f"HTTP {status}" in message
    assert f"{server.address}/{FILE}" in message
    assert "TETHER_D4RL_MIRRORS" in message
    assert str(settings.cache / "d4rl" / FILE) in message
    assert len(server.requests) == 1  # asking again would not help
    assert files(settings) == set()
    server.requests.clear()
    load(Downloads(mirrors=(f"{server.address}/a", f"{server.address}/b"), cache=tmp_path / "other", quiet=True))
    assert [path for path, _ in server.requests] == [f"/a/{FILE}", f"/b/{FILE}"]


def test_passing_faults_are_tried_again(server: Server, settings: Downloads) -> None:
    server.statuses = [503, 429]
    load(settings)
    assert len(server.requests) == 3


def test_lasting_faults_end(server: Server, settings: Downloads) -> None:
    server.statuses = [503] * 99
    assert "HTTP 503" in refused(settings)
    assert len(server.requests) == 3
    server.requests.clear()
    server.statuses, server.ranges, server.breaks = [], False, [20_000] * 99  # never gets further
    assert f"the connection broke after 20,000 of {len(CONTENT):,} bytes" in refused(settings)
    assert len(server.requests) == 4
    assert not (settings.cache / "d4rl" / FILE).exists()


def test_nobody_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    with Server() as gone:
        address = gone.address
    assert "refused" in refused(Downloads(mirrors=(address,), cache=tmp_path, quiet=True)).lower()
    assert "no host given" in refused(Downloads(mirrors=("http://",), cache=tmp_path, quiet=True))


def test_truncated_files_are_refused(server: Server, settings: Downloads) -> None:
    """The server itself has half a file, and says that it is all."""
    server.content = CONTENT[:40_000]
    assert "cut short" in refused(settings)
    assert files(settings) == set()
    server.sized = False  # the connection breaks and nothing says how long the file should be
    assert "cut short" in refused(settings)
    assert files(settings) == set()


@pytest.mark.parametrize("content", [b"<!DOCTYPE html><title>Moved</title>", b"", b"\x89HDX" + CONTENT[4:]])
def test_wrong_files_are_refused(server: Server, settings: Downloads, content: bytes) -> None:
    server.content = content
    message = refused(settings)
    assert "HDF5" in message
    assert files(settings) <= {"pins.json"}


def test_a_page_is_not_downloaded_to_its_end(server: Server, settings: Downloads) -> None:
    server.content, server.stated_size = b"<html>" * 10, 10**8
    assert "not an HDF5 file" in refused(settings)


@pytest.mark.parametrize("announced", [True, False])
def test_a_file_that_is_too_large_is_refused_and_nothing_stays(
    server: Server, settings: Downloads, announced: bool
) -> None:
    server.sized = announced
    small = dataclasses.replace(settings, largest_bytes=len(CONTENT) - 1)
    assert f"at most {len(CONTENT) - 1:,} are taken" in refused(small)
    assert list((settings.cache / "d4rl").rglob("*.part*")) == []
    load_dataset(f"d4rl:{NAME}", downloads=settings)
    (settings.cache / "d4rl" / FILE).unlink()  # its size is pinned now
    server.content = CONTENT + bytes(10)
    assert f"at most {len(CONTENT):,} are taken" in refused(settings)
    assert list((settings.cache / "d4rl").rglob("*.part*")) == []


def test_what_the_disk_cannot_hold_is_not_begun(
    server: Server, settings: Downloads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 100))
    assert "the disk has 100 free" in refused(settings)
    assert list((settings.cache / "d4rl").rglob("*.part*")) == []


def test_a_mirror_that_trickles_is_left_and_gone_on_with(
    server: Server, settings: Downloads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "SLOW_SECONDS", 0.0)
    slow = dataclasses.replace(settings, least_bytes_per_second=10**12)
    assert "too slow" in refused(slow)
    [part] = (settings.cache / "d4rl").rglob("*.part")
    held = part.stat().st_size
    assert held > 0
    load_dataset(f"d4rl:{NAME}", downloads=settings)
    assert server.asked("Range") == [None, f"bytes={held}-"]


def test_other_kinds_of_addresses_are_folders(tmp_path: Path) -> None:
    message = refused(Downloads(mirrors=("ftp://host/d4rl",), cache=tmp_path, quiet=True))
    assert "no mirror is an http:// or https:// address" in message


# --- pins, offline, folders ---------------------------------------------------------------------------------


def test_another_file_than_the_pinned_one_is_refused(server: Server, settings: Downloads) -> None:
    load(settings)
    target = settings.cache / "d4rl" / FILE
    target.write_bytes(hdf5(seed=1))
    pinned, found = hashlib.sha256(CONTENT).hexdigest()[:12], hashlib.sha256(hdf5(seed=1)).hexdigest()[:12]
    message = refused(settings)
    assert pinned in message
    assert found in message
    assert "delete the file" in message
    target.unlink()
    server.content = hdf5(seed=1)  # the mirror has changed, too
    message = refused(settings)
    assert f"its SHA-256 is {found}..., pinned is {pinned}" in message
    assert files(settings) == {"pins.json"}
    server.content = CONTENT
    load(settings)


def test_damaged_pins_are_named(settings: Downloads) -> None:
    settings.cache.mkdir()
    for content in ("{", "[]", '{"format_version": 1}', '{"format_version": 9, "files": {}}'):
        (settings.cache / "pins.json").write_text(content)
        assert "pins.json" in refused(settings)


def test_offline(server: Server, settings: Downloads) -> None:
    offline = Downloads(mirrors=settings.mirrors, cache=settings.cache, offline=True)
    target = settings.cache / "d4rl" / FILE
    message = refused(offline)
    assert "offline (TETHER_OFFLINE)" in message
    assert f"there is no file {target}; put it there (from {server.address}/{FILE})" in message
    target.parent.mkdir(parents=True)
    target.write_bytes(CONTENT)  # by hand
    load(offline)
    assert "pins.json" in files(settings)
    assert server.requests == []


def test_a_file_put_there_by_hand_is_looked_at(settings: Downloads) -> None:
    target = settings.cache / "d4rl" / FILE
    target.parent.mkdir(parents=True)
    target.write_bytes(CONTENT[:40_000])
    with pytest.raises(InputError, match="cut short"):
        load_dataset(f"d4rl:{NAME}", downloads=settings)
    assert "pins.json" not in files(settings)


@pytest.mark.parametrize("place", [FILE, FILE.partition("/")[2]])
def test_a_folder_as_a_mirror_is_read_in_place(server: Server, tmp_path: Path, place: str) -> None:
    folder = tmp_path / "laboratory"
    (folder / place).parent.mkdir(parents=True)
    (folder / place).write_bytes(CONTENT)
    settings = Downloads(mirrors=(str(folder), server.address), cache=tmp_path / "cache", offline=True)
    assert load_dataset(f"d4rl:{NAME}", downloads=settings).name == NAME
    assert server.requests == []
    assert files(settings) == {"pins.json"}
    (folder / place).write_bytes(hdf5(seed=1))
    assert "pinned" in refused(settings)


def test_names() -> None:
    """Every data set of the task table has a file, every file a task, and no two the same file."""
    assert set(d4rl_datasets()) <= set(D4RL_FILES)
    assert all(find_task(name) is not None for name in D4RL_FILES)
    assert len(set(D4RL_FILES.values())) == len(D4RL_FILES)
    for name, file in {
        "walker2d-medium-replay-v2": "gym_mujoco_v2/walker2d_medium_replay-v2.hdf5",
        "antmaze-umaze-v2": "ant_maze_v2/Ant_maze_u-maze_noisy_multistart_False_multigoal_False_sparse_fixed.hdf5",
        "antmaze-large-play-v2": "ant_maze_v2/Ant_maze_hardest-maze_noisy_multistart_True_multigoal_False_sparse"
        "_fixed.hdf5",
        "door-cloned-v1": "hand_dapg_v1/door-cloned-v1.hdf5",
    }.items():
        assert d4rl_file(name) == file
    with pytest.raises(InputError, match="unknown D4RL data set 'hopper-medum-v2'; did you mean hopper-medium-v2"):
        d4rl_file("hopper-medum-v2")


def test_killed_while_bytes_arrive(server: Server, settings: Downloads) -> None:
    """kill -9 leaves a part, never a file; the next process goes on from it."""
    stalled, release = threading.Event(), threading.Event()
    server.breaks = [50_000]

    def stall(number: int) -> None:
        if number == 1:
            stalled.set()
            release.wait(20)

    server.on_request = stall
    program = f"import tether; tether.load_dataset('d4rl:{NAME}')"
    environment = {**os.environ, "TETHER_CACHE": str(settings.cache), "TETHER_D4RL_MIRRORS": server.address}
    process = subprocess.Popen([sys.executable, "-c", program], env=environment, stderr=subprocess.DEVNULL)
    assert stalled.wait(30)
    process.kill()
    process.wait()
    release.set()
    assert files(settings) == {f"d4rl/{FILE}.part", f"d4rl/{FILE}.part.json"}
    server.on_request = lambda number: None
    load(settings)
    assert server.asked("Range")[-1] == "bytes=50000-"
