"""Where tether keeps what it can make or fetch again: downloads and compiled programs."""

import os
from pathlib import Path

__all__ = ["cache_folder", "use_compilation_cache"]


def cache_folder() -> Path:
    """`TETHER_CACHE`, or `tether` in the user's cache folder (`XDG_CACHE_HOME`, default `~/.cache`); not created."""
    if chosen := os.environ.get("TETHER_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "tether"


def use_compilation_cache() -> Path | None:
    """Keep compiled programs on disk, so that a second run of the same shapes starts at once -> the folder.

    Called by the `tether` command; a Python program may call it before its first computation, if it does not replace
    functions of tether. A cache that JAX was told of already (`JAX_COMPILATION_CACHE_DIR`) stays;
    `TETHER_COMPILATION_CACHE=off` leaves everything as it is, as does a folder that cannot be written -> None. JAX keys
    programs by their text, its own version, its flags and the device, so a stale one is never taken. Beside it lie the
    programs of training as they were traced (`tether.machine.programs`).
    """
    import jax

    from tether.machine.programs import keep_programs_in

    if os.environ.get("TETHER_COMPILATION_CACHE", "on").lower() in ("off", "0", "false", "no"):
        return None
    keep_programs_in(cache_folder() / "programs")
    if chosen := getattr(jax.config, "jax_compilation_cache_dir", None):
        return Path(chosen)
    folder = cache_folder() / "compiled"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:  # no home, a read-only disk: compiling anew is slower, not wrong
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # many small programs make a start slow, too
    return folder
