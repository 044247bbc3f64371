"""`tether-serve`: policies behind HTTP, on this machine alone unless asked otherwise."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import errno
import json
import logging
import math
import os
import signal
import socket
import ssl
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tether_runtime.errors import InputError
from tether_runtime.fallback import TROUBLES, Guard
from tether_runtime.serve.limits import LOOPBACK

__all__ = ["Options", "main", "serve"]

OPTIONS = "TETHER_SERVE_OPTIONS"  # how a worker process hears of them
POSITIVE = ("rate", "body_seconds")
NUMBERS = ("rate", "late_ms", "margin", "flagged_share")


# The same words as of `tether serve`, which has the same options; tests/test_serve.py compares them.
HELP = {
    "host": "Address to listen on; others than this machine's own need a token.",
    "port": "Port to listen on.",
    "workers": "Processes; one that dies is replaced.",
    "batch_wait_ms": "How long a decision waits for others to be computed together with.",
    "largest_batch": "Decisions that are computed together at most.",
    "threads": "Threads of ONNX Runtime in each process.",
    "token_file": "A file with the token that requests must bear: Authorization: Bearer TOKEN.",
    "largest_body_bytes": "Of a request or message.",
    "body_seconds": "How long a client may take to send a request's body.",
    "rate": "Requests a second that each address may make of each process.",
    "most_connections": "Of each process at once; more are turned away.",
    "tls_certificate": "Certificate chain, PEM.",
    "tls_key": "Its private key, PEM.",
    "on": "What happens on missing, not_finite, late, outside and foreign: refuse, hold (the last action) or safe.",
    "safe_action": "The action of the rules hold and safe, in the robot's units.",
    "late_ms": "How old an observation may be whose request says its `time`.",
    "margin": "How far beyond the training data's range an observation may lie, in widths of that range.",
    "flagged_share": "Share of the data's own decisions that count as foreign; decisions as unlike them do, too; 0: none.",  # noqa: E501
    "log": "Append every decision to this file; `tether data import` reads it.",
}


@dataclasses.dataclass(frozen=True)
class Options:
    """Of a server; HELP says what they are."""

    policies: tuple[str, ...]
    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 1
    batch_wait_ms: float = 1.0
    largest_batch: int = 64
    threads: int = 1
    token_file: str | None = None
    largest_body_bytes: int = 1_000_000
    body_seconds: float = 10.0
    rate: float | None = None
    most_connections: int = 1000
    tls_certificate: str | None = None
    tls_key: str | None = None
    on: tuple[str, ...] = ()
    safe_action: tuple[float, ...] = ()
    late_ms: float | None = None
    margin: float | None = None
    flagged_share: float | None = None
    log: str | None = None


def serve(options: Options) -> int:
    """Serve until Ctrl-C or SIGTERM. Raises InputError for what cannot be, before anything listens."""
    try:
        import uvicorn
    except ImportError as error:
        raise InputError(f"serving needs {error.name}: pip install tether-runtime[serve]") from None
    _check(options)
    made = make_server(options, several_processes=False)  # what does not load is said here, once
    how: dict[str, Any] = {
        "limit_concurrency": options.most_connections,
        "ws_max_size": options.largest_body_bytes,
        "timeout_graceful_shutdown": 10,
        "timeout_keep_alive": 30,
        "ssl_certfile": options.tls_certificate,
        "ssl_keyfile": options.tls_key,
        "access_log": False,
        "log_level": "warning",
        "server_header": False,
        "ws": "websockets-sansio",
    }
    with _listener(options.host, options.port) as listener:
        host, port = (f"[{options.host}]" if ":" in options.host else options.host), listener.getsockname()[1]
        said = f"{', '.join(made.store.served)}: http{'s' if options.tls_key else ''}://{host}:{port} (Ctrl-C ends it)"
        if options.workers == 1:
            server = uvicorn.Server(uvicorn.Config(made.app, **how))
            with _asked_to_end(server), contextlib.suppress(KeyboardInterrupt):
                _say(said)
                server.run([listener])
            return 0 if server.started or server.should_exit else 1
    with tempfile.TemporaryDirectory(prefix="tether-serve-") as scratch:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = scratch
        os.environ[OPTIONS] = json.dumps(dataclasses.asdict(options))
        _say(said)
        application = "tether_runtime.serve.command:application"
        uvicorn.run(application, factory=True, host=options.host, port=port, workers=options.workers, **how)
    return 0


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()  # a pipe is read by whoever waits for the address


def _listener(host: str, port: int) -> socket.socket:
    """A socket that is bound there. Raises InputError where none can be."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        what = "is in use; choose another --port" if error.errno == errno.EADDRINUSE else error.strerror
        raise InputError(f"host {host}, port {port}: {what}") from None


@contextlib.contextmanager
def _asked_to_end(server: Any) -> Iterator[None]:
    """Inside, SIGTERM asks the server to end. uvicorn does so itself, but only once it runs, and sends the signal on
    when it has ended. (A handler that raises would be lost where it comes in the middle of an import.)"""

    def end(*_: object) -> None:
        server.should_exit = True

    if threading.current_thread() is not threading.main_thread():  # where Python handles no signals
        yield
        return
    previous = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if previous is None else previous)


def application() -> Any:
    """What uvicorn runs in each of several processes."""
    return make_server(_options(json.loads(os.environ[OPTIONS])), several_processes=True).app


def _options(given: dict[str, Any]) -> Options:
    content: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in given.items()}
    return Options(**content)


def make_server(options: Options, several_processes: bool) -> Any:
    """The server of one process. Raises InputError where a policy or rule cannot be."""
    try:
        from tether_runtime.decisions import DecisionLog
        from tether_runtime.serve.app import Server
        from tether_runtime.serve.batching import Batcher
        from tether_runtime.serve.limits import Limits
        from tether_runtime.serve.monitor import Monitor
        from tether_runtime.serve.store import Store, parse_places
    except ImportError as error:
        raise InputError(f"serving needs {error.name}: pip install tether-runtime[serve]") from None

    rules = dict(_rule(word) for word in options.on)
    late = None if options.late_ms is None else options.late_ms / 1e3

    def guard(policy: Any) -> Guard:
        how: dict[str, Any] = {"late_seconds": late, "margin": options.margin}
        if options.flagged_share is not None:
            how["flagged_share"] = options.flagged_share or None
        return Guard(policy, rules, safe_action=options.safe_action or None, **how)

    store = Store(parse_places(list(options.policies)), guard, options.threads)
    limits = Limits(_token(options), options.largest_body_bytes, options.body_seconds, options.rate)
    try:
        log = None if options.log is None else DecisionLog(Path(options.log))
    except OSError as error:
        raise InputError(f"log {options.log}: cannot be written: {error.strerror or error}") from None
    batcher = Batcher(options.batch_wait_ms / 1e3, options.largest_batch)
    return Server(store, batcher, limits, Monitor(several_processes), log, several_processes)


def _rule(word: str) -> tuple[str, str]:
    trouble, equals, rule = word.partition("=")
    if not equals:
        raise InputError(f"--on {word!r}: write TROUBLE=RULE, such as late=hold; troubles: {', '.join(TROUBLES)}")
    return trouble, rule


def _token(options: Options) -> str | None:
    if options.token_file is None:
        return None
    try:
        token = Path(options.token_file).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise InputError(f"{options.token_file}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise InputError(f"{options.token_file}: is no text; a token of ASCII characters is needed") from None
    if not token.isascii() or not token.isprintable():
        raise InputError(f"{options.token_file}: a token of one line of ASCII characters is needed")
    if len(token) < 16:
        raise InputError(f"{options.token_file}: a token of at least 16 characters is needed")
    return token


def _check(options: Options) -> None:
    """Refuse what would listen in a way that nobody wants."""
    if not options.policies:
        raise InputError("no policy to serve")
    if (options.tls_certificate is None) != (options.tls_key is None):
        raise InputError("TLS needs both a certificate and a key")
    if options.host not in LOOPBACK and options.token_file is None:
        raise InputError(f"host {options.host}: others than this machine can ask; give a token file")
    for name in ("workers", "largest_batch", "threads", "largest_body_bytes", "most_connections"):
        if getattr(options, name) < 1:
            raise InputError(f"{name} {getattr(options, name)}: at least 1")
    for name in POSITIVE:
        value = getattr(options, name)
        if value is not None and not 0 < value < math.inf:
            raise InputError(f"{name} {value}: a number above 0")
    if not 0 <= options.batch_wait_ms < math.inf:
        raise InputError(f"batch_wait_ms {options.batch_wait_ms}: a number of at least 0")
    if not 0 <= options.port < 65536:
        raise InputError(f"port {options.port}: from 0 to 65535")
    if options.workers > 1 and options.port == 0:
        raise InputError("port 0: several workers need one that is known")
    if options.tls_certificate is not None and options.tls_key is not None:
        _check_tls(options.tls_certificate, options.tls_key)


def _check_tls(certificate: str, key: str) -> None:
    for path in (certificate, key):
        if not Path(path).is_file():
            raise InputError(f"{path}: no such file")

    def no_password() -> str:  # nobody is there to be asked
        raise InputError(f"{key}: is encrypted; give a key without a password")

    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key, no_password)
    except OSError as error:  # ssl.SSLError is one
        raise InputError(f"TLS: {certificate} and {key}: no certificate and its key in PEM: {error}") from None


def main(arguments: Sequence[str] | None = None) -> int:
    """The command `tether-serve`; exit code 2 for bad input."""
    parser = argparse.ArgumentParser("tether-serve", description=__doc__)
    parser.add_argument("policies", nargs="+", metavar="[NAME=]FOLDER", help="what `tether export` wrote")
    for field in dataclasses.fields(Options)[1:]:
        kind = float if field.name in NUMBERS else {"host": str, "port": int}.get(field.name)
        kind = kind or (type(field.default) if field.default not in (None, ()) else str)
        several: dict[str, Any] = {"nargs": "+"} if field.default == () else {}
        kind = float if field.name == "safe_action" else kind
        default = "" if field.default in (None, ()) else f" (default: {field.default})"
        option, text = f"--{field.name.replace('_', '-')}", HELP[field.name] + default
        parser.add_argument(option, type=kind, default=field.default, help=text, **several)
    given = vars(parser.parse_args(arguments))
    logging.basicConfig(format="tether-serve: %(message)s")
    try:
        return serve(_options(given))
    except InputError as error:
        sys.stderr.write(f"tether-serve: error: {error}\n")
        return 2
