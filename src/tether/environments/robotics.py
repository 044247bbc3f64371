"""gymnasium-robotics, which Adroit and Kitchen are built on: imported on first use, or asked for in one line."""

import contextlib
import io
import warnings
from typing import Any

import gymnasium

from tether.errors import InputError

__all__ = ["import_robotics", "know_robotics", "make_robotics"]


def import_robotics() -> Any:
    """The package, whose environments gymnasium knows from then on. Raises ImportError where it is not installed."""
    # It greets on stderr.
    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import gymnasium_robotics

        return gymnasium_robotics


def know_robotics(name: str) -> None:
    """Make gymnasium-robotics' ids known, if it is installed and gymnasium does not know `name` without it."""
    if name not in gymnasium.registry and ":" not in name:
        with contextlib.suppress(ImportError):
            import_robotics()


def make_robotics(*ids: str, **options: Any) -> tuple[str, gymnasium.Env]:
    """The first of these environments that the installed version has, bare of gymnasium's wrappers: (id, environment).

    Raises:
        InputError: gymnasium-robotics is not installed, or has none of them.
    """
    try:
        gymnasium_robotics = import_robotics()
    except ImportError as error:
        raise InputError(f'{ids[0]} needs gymnasium-robotics: pip install "tether-rl[robotics]" ({error})') from error
    for name in ids:
        if name in gymnasium.registry:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return name, gymnasium.make(name, disable_env_checker=True, **options).unwrapped
    version = gymnasium_robotics.__version__
    raise InputError(f"gymnasium-robotics {version} has no {' or '.join(ids)}; another version does")
