"""The page at `/` in a real browser: headless Chromium, spoken to by its own protocol."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
for package in ("starlette", "uvicorn", "websockets", "msgpack", "prometheus_client", "onnxruntime"):
    pytest.importorskip(package)
import websockets.sync.client  # noqa: E402
from test_runtime_server import EXPORTS, running  # noqa: E402

import tether_runtime  # noqa: E402

pytestmark = [pytest.mark.long, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")]


class Page:
    """A page in Chromium; `run` evaluates JavaScript in it."""

    def __init__(self, address: str, folder: Path):
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"]
        command = [str(CHROMIUM), *options, f"--user-data-dir={folder}", address]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        assert self._process.stderr is not None
        lines = iter(self._process.stderr.readline, "")
        found = next(filter(None, (re.search(r"ws://([^/]+)/", line) for line in lines)))
        import urllib.request

        with urllib.request.urlopen(f"http://{found[1]}/json") as answer:
            target = next(each for each in json.loads(answer.read()) if each["type"] == "page")
        self._open = contextlib.ExitStack()
        self._wire = self._open.enter_context(
            websockets.sync.client.connect(target["webSocketDebuggerUrl"], max_size=None)
        )
        self._numbers = itertools.count(1)

    def run(self, script: str) -> Any:
        number = next(self._numbers)
        how = {"expression": script, "awaitPromise": True, "returnByValue": True}
        self._wire.send(json.dumps({"id": number, "method": "Runtime.evaluate", "params": how}))
        while (answer := json.loads(self._wire.recv(30))).get("id") != number:
            pass
        assert "exceptionDetails" not in answer["result"], answer
        return answer["result"]["result"].get("value")

    def wait_for(self, script: str) -> Any:
        """The value of `script` once it is true."""
        deadline = time.time() + 30
        while not (value := self.run(script)):
            assert time.time() < deadline, script
            time.sleep(0.1)
        return value

    def close(self) -> None:
        self._open.close()
        self._process.kill()
        self._process.communicate()


def test_a_person_tries_an_observation(tmp_path: Path):
    with running(f"walker={EXPORTS / 'bc-onnx'}", f"dt={EXPORTS / 'dt-numpy'}") as address:
        page = Page(address, tmp_path)
        try:
            labels = page.wait_for("[...document.querySelectorAll('#observation input')].map(e => e.ariaLabel)")
            assert labels == ["height", "joint[0]", "joint[1]"]
            assert "bc, onnx float32" in page.run("document.querySelector('#about').textContent")
            assert page.run("document.querySelector('#observation tbody').textContent").startswith("height")
            page.run(
                "[1, 2, 3].forEach((x, i) => document.querySelectorAll('#observation input')[i].value = x);"
                "document.querySelector('#seed').value = 7; document.querySelector('#form').requestSubmit()"
            )
            cells = "[...document.querySelectorAll('#action tbody td')].map(e => e.textContent)"
            page.wait_for(f"{cells}.length")
            found = page.run(cells)
            assert found[0] == "hip"
            wanted = tether_runtime.load(EXPORTS / "bc-onnx")(np.float32([1.0, 2.0, 3.0]))
            assert [float(found[1]), float(found[5])] == pytest.approx(wanted, rel=1e-3)
            assert found[3] == "-2 to 2"
            assert page.run("document.querySelector('#answer').textContent") == "seed 7"
            page.run("document.querySelectorAll('#observation input')[0].value = '1e39'; act(new Event('submit'))")
            assert "not finite" in page.wait_for("document.querySelector('#answer.error')?.textContent")
            page.run(
                "document.querySelector('#policy').value = 'dt';"
                "document.querySelector('#policy').dispatchEvent(new Event('change'))"
            )
            assert "with a memory" in page.run("document.querySelector('#about').textContent")
        finally:
            page.close()
