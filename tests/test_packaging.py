"""Wheel and source distribution: built as a release is, installed into a clean environment, used from there."""

import os
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_string
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.long
BUNDLED = "tether/data/bundled/halfcheetah-medium-replay-small.hdf5"
USE = """
import importlib.resources
from importlib.metadata import version

import tether

home = importlib.resources.files("tether")
assert "site-packages" in str(home), home
assert (home / "py.typed").is_file()
assert tether.__version__ == version("tether-rl")
data = tether.load_dataset("halfcheetah-medium-replay-small")
assert data.observations.shape == (65000, 17)
report = tether.train(
    tether.BC(hidden_sizes=(8,), train_updates=3), data, environment="none", out="run", quiet=True
)
assert tether.load_policy("run")(data.observations[0]).shape == (6,)
"""


def run(*words: str | Path, cwd: Path) -> str:
    """What a command prints; its complaints where it fails. PYTHONPATH is not inherited: the checkout must not help."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([str(word) for word in words], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The source distribution, and the wheel that is made of it alone."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "--target", "sdist", "--directory", folder, cwd=ROOT)
    (sdist,) = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    source = folder / sdist.name.removesuffix(".tar.gz")
    run(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder, cwd=source)
    (wheel,) = folder.glob("*.whl")
    return {"sdist": sdist, "wheel": wheel, "source": source}


def test_the_wheel_holds_the_package_and_nothing_else(built: dict[str, Path]) -> None:
    with zipfile.ZipFile(built["wheel"]) as wheel:
        names = wheel.namelist()
        metadata = message_from_string(wheel.read(next(n for n in names if n.endswith("METADATA"))).decode())
    tops = {name.split("/")[0] for name in names}
    assert tops == {"tether", next(top for top in tops if top.endswith(".dist-info"))}
    sources = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src/tether").rglob("*.*")}
    assert {name for name in sources if "__pycache__" not in name} == {n for n in names if n.startswith("tether/")}
    assert BUNDLED in names
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert "Typing :: Typed" in metadata.get_all("Classifier", [])


def test_the_source_distribution_has_what_a_packager_needs(built: dict[str, Path]) -> None:
    source = built["source"]
    for name in ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "tests/conftest.py", "Makefile"):
        assert (source / name).is_file(), name
    assert not (source / ".git").exists()
    assert built["sdist"].stat().st_size < 20e6


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_installed_in_a_clean_environment(built: dict[str, Path], kind: str, tmp_path: Path) -> None:
    """Without the network: dependencies are those of this environment, and hatchling is there to build with."""
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "environment", cwd=tmp_path)
    python = tmp_path / "environment" / "bin" / "python"
    (site,) = (tmp_path / "environment" / "lib").glob("python*/site-packages")
    others = [path for path in sys.path if path.endswith("site-packages")]
    (site / "dependencies.pth").write_text("\n".join(others) + "\n", encoding="utf-8")
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--ignore-installed"]
    run(sys.executable, "-m", "pip", "--python", python, "install", *options, built[kind], cwd=tmp_path)
    run(python, "-c", USE, cwd=tmp_path)
    assert run(tmp_path / "environment" / "bin" / "tether", "--version", cwd=tmp_path).startswith("tether ")
    assert "td3-bc" in run(tmp_path / "environment" / "bin" / "tether", "algorithms", cwd=tmp_path)
