"""What an algorithm raises while it is checked, in a sentence: first the cause, then what to write in its place."""

import traceback
from pathlib import Path

from jax.errors import (
    ConcretizationTypeError,
    NonConcreteBooleanIndexError,
    TracerArrayConversionError,
    TracerBoolConversionError,
    TracerIntegerConversionError,
    UnexpectedTracerError,
)

__all__ = ["sentence_of"]

LONGEST = 300
LIBRARIES = "site-packages", str(Path(__file__).parents[1])

# The first that fits counts: most are subclasses of ConcretizationTypeError.
CAUSES: dict[type[Exception], str] = {
    TracerBoolConversionError: "Python decides by a number that is known only while the program runs{where}: write "
    "jnp.where(condition, a, b) or jax.lax.cond; a choice that stays belongs into a static hyper-parameter",
    TracerIntegerConversionError: "Python needs a whole number that is known only while the program runs{where}: what "
    "decides shapes and lengths of loops belongs into a static hyper-parameter",
    TracerArrayConversionError: "NumPy is given an array that is known only while the program runs{where}: write "
    "jnp in the place of np",
    NonConcreteBooleanIndexError: "an array is indexed by a mask{where}, so its size is known only while the program "
    "runs: write jnp.where(mask, a, 0)",
    UnexpectedTracerError: "an array of one call is kept for another one{where}, in a global or an attribute: carry it "
    "in the state",
    ConcretizationTypeError: "Python needs a number that is known only while the program runs{where}: compute with "
    "jnp, without float() and int(), or declare it static",
}


def sentence_of(error: Exception) -> str:
    """One sentence of at most some 300 characters."""
    cause = next((cause for kind, cause in CAUSES.items() if isinstance(error, kind)), None)
    if cause is not None:
        return cause.format(where=_where(error))
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    return f"it raises {type(error).__name__}: {' '.join(lines)[:LONGEST]}"


def _where(error: Exception) -> str:
    """The author's own line that raised it: ` (if step > 3:, mine.py line 73)`."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not any(part in frame.filename for part in LIBRARIES)]
    if not own:
        return ""
    return f" ({(own[-1].line or '')[:80]}, {Path(own[-1].filename).name} line {own[-1].lineno})"
