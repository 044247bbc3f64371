"""How `tether-serve` holds a load over loopback: so many decisions a second from 32 clients, and what they wait for.

    python benchmarks/serve_load.py EXPORT --seconds 60 --rate 1000 --clients 32

Clients send on a schedule, whether or not answers are late, so that waiting is not hidden. A row of JSON: answers,
errors, percentiles of the time from when a question was due to its answer, the server's processor time for a decision
(which a busy machine hardly changes), its resident memory before and after. Requests are bounded in number (rate times
seconds) and go to 127.0.0.1 only.
"""

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np


def main() -> None:
    """Start a server, load it, say what was measured."""
    parser = argparse.ArgumentParser()
    parser.add_argument("export", type=Path)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=1000.0)
    parser.add_argument("--clients", type=int, default=32)
    arguments = parser.parse_args()
    size = json.loads((arguments.export / "export.json").read_text())["observation"]["size"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", "import sys; from tether_runtime.serve.command import main; sys.exit(main())"]
    server = subprocess.Popen([*command, str(arguments.export), "--port", str(port)])
    try:
        _wait(port)
        asyncio.run(_load(port, size, arguments.clients, 200.0, 2.0))  # warm
        before = _resident_megabytes(server.pid)
        used = _cpu_seconds(server.pid)
        row = asyncio.run(_load(port, size, arguments.clients, arguments.rate, arguments.seconds))
        row["server_cpu_ms_per_decision"] = round(1e3 * (_cpu_seconds(server.pid) - used) / row["answers"], 3)
        memory = {"resident_mb_before": before, "resident_mb_after": _resident_megabytes(server.pid)}
        sys.stdout.write(json.dumps(row | memory | {"load_average": round(os.getloadavg()[0], 1)}) + "\n")
    finally:
        server.terminate()
        server.wait()


def _wait(port: int) -> None:
    for _ in range(600):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            time.sleep(0.1)
    raise SystemExit("the server did not come up")


async def _load(port: int, size: int, clients: int, rate: float, seconds: float) -> dict[str, Any]:
    times: list[float] = []
    errors: list[str] = []
    began = time.perf_counter()

    async def client(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        observation = np.random.default_rng(number).normal(size=size).tolist()
        body = json.dumps({"observation": observation}).encode()
        request = b"POST /act HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
        for question in range(int(rate * seconds / clients)):
            due = began + (question * clients + number) / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
            answer = await reader.readexactly(int(length.split(b":")[1]))
            times.append(time.perf_counter() - due)
            if not head.startswith(b"HTTP/1.1 200") or b'"action"' not in answer:
                errors.append(answer.decode()[:100])
        writer.close()

    await asyncio.gather(*(client(number) for number in range(clients)))
    took = time.perf_counter() - began
    percentiles = {f"p{p}_ms": round(1e3 * float(np.percentile(times, p)), 2) for p in (50, 99, 99.9)}
    return {"answers": len(times), "errors": len(errors), "per_second": round(len(times) / took, 1), **percentiles}


def _cpu_seconds(pid: int) -> float:
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _resident_megabytes(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return round(int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024, 1)


if __name__ == "__main__":
    main()
