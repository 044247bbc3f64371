"""What Ray and processes that train together listen on, where all of it is on one machine: loopback alone."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

SHOW = """
import os, sys
from pathlib import Path

listening = {}  # inode of a socket -> its address as the kernel writes it
for table in ("tcp", "tcp6"):
    for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A":
            listening[f"socket:[{fields[9]}]"] = fields[1]
for process in Path("/proc").glob("[0-9]*"):
    try:
        ours = os.environ["TETHER_TEST_GROUP"].encode() in (process / "environ").read_bytes()
        for link in (process / "fd").iterdir() if ours else ():
            if (address := listening.get(os.readlink(link))) is not None:
                print("listens", address, flush=True)
    except OSError:
        continue
"""
RAY = f"""
import ray
from tether.studies.sweep.ray import _connect
_connect(ray, "local")
print(ray.get(ray.remote(lambda: "a worker is there").remote()))
{SHOW}
"""
TOGETHER = f"""
import sys
from tether.training.devices import connect, together
connect(sys.argv[1])
together("begun")
{SHOW}
together("ended")
"""


def listened_on(*commands: list[str]) -> set[str]:
    """The addresses on which the processes listen, of the commands that begin at once."""
    environment = os.environ | {"TETHER_TEST_GROUP": f"group-{time.monotonic_ns()}-", "JAX_PLATFORMS": "cpu"}
    how: dict[str, Any] = {"env": environment, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    begun = [subprocess.Popen([sys.executable, "-c", *command], **how) for command in commands]
    found = set()
    for process in begun:
        out, err = process.communicate(timeout=900)
        assert process.returncode == 0, err
        found |= {line.split()[1].rpartition(":")[0] for line in out.splitlines() if line.startswith("listens")}
    return found


LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="the kernel does not tell")
def test_processes_of_one_machine_meet_on_loopback() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    found = listened_on([TOGETHER, f"127.0.0.1:{port},1,0"])
    assert found
    assert found <= LOOPBACK


@pytest.mark.long
def test_a_cluster_of_one_machine_listens_on_loopback() -> None:
    pytest.importorskip("ray")
    found = listened_on([RAY])
    assert found
    assert found <= LOOPBACK
