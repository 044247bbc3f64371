"""Strict arrays, under pytest only: broadcasting over ranks and mixing dtypes are errors, as they hide bugs."""

import atexit
import gc
import importlib.metadata
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

# Tests compile hundreds of small programs and run each for moments. Without LLVM's optimisation, with XLA's older code
# generator for fusions, and with one module of code per program in place of 32, that takes a third of the time. Set
# before JAX starts; processes of the tests inherit it.
XLA_FLAGS = ["--xla_backend_optimization_level=0", "--xla_cpu_parallel_codegen_split_count=1"]
if tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2])) < (0, 11):  # later ones have no other generator
    XLA_FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ.setdefault("XLA_FLAGS", " ".join(XLA_FLAGS))
# Each worker of `make test` has a core of its own: NumPy's threads of all of them would only wait for each other.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# Begun with nohup, the tests and all that they begin would not hear SIGHUP, which some of them send.
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
# What one test has compiled no other compiles again, in whichever process: pytest starts the workers, they the rest.
# TETHER_TEST_PROGRAMS names a folder that keeps the programs for the next time, too.
if "PYTEST_XDIST_WORKER" not in os.environ:
    programs = os.environ.get("TETHER_TEST_PROGRAMS")
    if programs is None:
        programs = tempfile.mkdtemp(prefix="tether-programs-")
        atexit.register(shutil.rmtree, programs, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = programs
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

import jax  # noqa: E402
import pytest  # noqa: E402

SLOW = Path(__file__).with_name("slow.txt")
LONG_SECONDS = 7200  # the limit of a test marked `long`; others have pyproject.toml's

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
os.environ["TETHER_CORES"] = "2"  # no evaluation workers where a test does not ask for them, whatever the machine
os.environ["TETHER_COMPILATION_CACHE"] = "off"  # tests leave the user's cache alone; their processes inherit it


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What runs in one process under `--dist loadgroup`: a file, whose tests share compiled programs; of files that
    test every algorithm, the tests of one algorithm. Long tests may take long, and slow ones are marked."""
    slow = {line for line in SLOW.read_text(encoding="utf-8").splitlines() if line[:1] != "#"}
    for item in items:
        if not slow.isdisjoint((item.nodeid, item.nodeid.split("[")[0], item.nodeid.split("::")[0])):
            item.add_marker(pytest.mark.slow)
        parameters = getattr(item, "callspec", None)
        name = parameters.params.get("name") if parameters else None
        by_algorithm = item.path.parent.name in ("contract", "learning") and isinstance(name, str)
        if item.get_closest_marker("long") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(LONG_SECONDS))
        item.add_marker(pytest.mark.xdist_group(f"{item.path.stem}-{name}" if by_algorithm else item.path.stem))


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Between groups the compiled programs go: kept, they are 5 GB per process and more memory maps than Linux allows,
    and XLA then ends the process with a segmentation fault."""
    if nextitem is None or _group(item) != _group(nextitem):
        jax.clear_caches()


def pytest_collection_finish() -> None:
    """Modules and tests are there to stay: a garbage collector that looks at them again and again, and after every few
    hundred objects of a trace, takes a twelfth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def _group(item: pytest.Item) -> str:
    marker = item.get_closest_marker("xdist_group")
    return marker.args[0] if marker else item.path.stem


@pytest.fixture
def getkey() -> Callable[[], jax.Array]:
    """Calls give independent keys, the same ones in every run of the test."""
    keys = iter(jax.random.split(jax.random.key(2405_19690), 1000))
    return lambda: next(keys)


@pytest.fixture(autouse=True)
def _registrations_end_with_the_test() -> Iterator[None]:
    """What a test registers no other test meets, in whichever order they run."""
    from tether.machine.registry import KINDS, registry  # not above: jaxtyping's hook comes first

    registries = [registry(kind) for kind in KINDS]
    before = [dict(known._registered) for known in registries]
    yield
    for known, own in zip(registries, before, strict=True):
        known._registered.clear()
        known._registered.update(own)
