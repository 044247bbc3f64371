"""`tether serve`."""

import contextlib
import dataclasses
import tempfile
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional

from tether.cli.parts import hint, several
from tether.errors import InputError

__all__ = ["Serve"]


@dataclasses.dataclass(frozen=True)
class Serve:
    """Serve policies over HTTP (JSON) and websockets (msgpack), on this machine unless asked otherwise.

    A folder that `tether export` wrote is served as it is, and loaded anew when it is replaced.

    A policy folder or a run is exported to ONNX first.

    Without tether, `tether-serve` of the package tether-runtime does the same.

    Examples:
      tether serve runs/dtql-hopper-medium-20260101-120000
      tether serve walker@1=exports/walker-1 walker@2=exports/walker-2 --port 8080 --workers 2
      tether serve walker=exports/walker --on not_finite=hold late=safe --safe-action 0 0 0 --late-ms 50
    """

    policies: Annotated[Positional[tuple[str, ...]], several("[NAME=]POLICY ...")]
    """Exports, policy folders or runs; a name is that of the folder unless one is given."""
    host: str = "127.0.0.1"
    """Address to listen on; others than this machine's own need a token."""
    port: int = 8000
    """Port to listen on."""
    workers: int = 1
    """Processes; one that dies is replaced."""
    batch_wait_ms: float = 1.0
    """How long a decision waits for others to be computed together with."""
    largest_batch: int = 64
    """Decisions that are computed together at most."""
    threads: int = 1
    """Threads of ONNX Runtime in each process."""
    token_file: Annotated[Path | None, hint("anybody may ask", "FILE")] = None
    """A file with the token that requests must bear: Authorization: Bearer TOKEN."""
    largest_body_bytes: int = 1_000_000
    """Of a request or message."""
    body_seconds: float = 10.0
    """How long a client may take to send a request's body."""
    rate: Annotated[float | None, hint("any", "X")] = None
    """Requests a second that each address may make of each process."""
    most_connections: int = 1000
    """Of each process at once; more are turned away."""
    tls_certificate: Annotated[Path | None, hint("no TLS", "FILE")] = None
    """Certificate chain, PEM."""
    tls_key: Annotated[Path | None, hint("no TLS", "FILE")] = None
    """Its private key, PEM."""
    on: Annotated[tuple[str, ...], hint("refuse; outside=act foreign=act", "TROUBLE=RULE ...")] = ()
    """What happens on missing, not_finite, late, outside and foreign: refuse, hold (the last action) or safe."""
    safe_action: Annotated[tuple[float, ...], hint("none", "X ...")] = ()
    """The action of the rules hold and safe, in the robot's units."""
    late_ms: Annotated[float | None, hint("any", "X")] = None
    """How old an observation may be whose request says its `time`."""
    margin: Annotated[float | None, hint("not looked at", "X")] = None
    """How far beyond the training data's range an observation may lie, in widths of that range."""
    flagged_share: Annotated[float | None, hint("0.01", "X")] = None
    """Share of the data's own decisions that count as foreign; decisions as unlike them do, too; 0: none."""
    log: Annotated[Path | None, hint("none", "FILE.jsonl")] = None
    """Append every decision to this file; `tether data import` reads it."""

    def run(self) -> int:
        """Serve until Ctrl-C or SIGTERM."""
        try:
            import tether_runtime
            from tether_runtime.serve.command import Options, serve
        except ImportError:
            raise InputError("serve: needs tether-runtime: pip install tether-rl[serve]") from None
        with contextlib.ExitStack() as stack:
            places = tuple(_exported(word, stack) for word in self.policies)
            given = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
            plain = {name: str(value) if isinstance(value, Path) else value for name, value in given.items()}
            options: dict[str, Any] = plain | {"policies": places}
            try:
                return serve(Options(**options))
            except tether_runtime.InputError as error:
                raise InputError(str(error)) from None


def _exported(word: str, stack: contextlib.ExitStack) -> str:
    """NAME=FOLDER of an export: the one that is named, or one that is made now and lives as long as `stack`."""
    name, equals, folder = word.partition("=")
    path = Path(folder if equals else word)
    name = name if equals else path.resolve().name
    if (path / "export.json").is_file() or not path.is_dir():
        return f"{name}={path}"
    from tether.api import export_policy

    place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tether-serve-"))) / name
    export_policy(path, place, check_decisions=100)
    return f"{name}={place}"
