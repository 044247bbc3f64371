"""The algorithms in words: what each is, its paper and family."""

import inspect
import re
import sys
from typing import NamedTuple

from tether.algorithms import ALGORITHMS, FAMILIES

__all__ = ["OTHERS", "Entry", "catalogue"]

OTHERS = "of others"
"""The family of what is not the library's own."""


class Entry(NamedTuple):
    """One algorithm, as the header of its file describes it."""

    name: str
    what: str  # the first line of its file, or of its class (a user's, or one of several in a file), without references
    paper: str  # arXiv id, such as "2405.19690"; empty where there is none
    family: str


def catalogue() -> dict[str, Entry]:
    """Every algorithm, in the registry's order."""
    family_of = {name: family for family, names in FAMILIES.items() for name in names}
    return {name: _entry(name, family_of.get(name, OTHERS)) for name in ALGORITHMS}


def _entry(name: str, family: str) -> Entry:
    cls = ALGORITHMS[name]
    header = sys.modules[cls.__module__].__doc__ or ""
    shared = sum(other.__module__ == cls.__module__ for other in ALGORITHMS.values()) > 1
    own = inspect.getdoc(cls) or ""
    texts = (own, header, name) if shared or not ALGORITHMS.is_ours(name) else (header, own, name)
    what = next(text.strip() for text in texts if text.strip()).splitlines()[0].split(": ", 1)[-1]
    what = re.sub(r"\s*\([^()]*(?:arXiv|et al)[^()]*\)", "", what).removesuffix(".")
    # The text says whose the algorithm is; what is set in, beside the equations, whose form of it.
    text = "\n".join(line for line in header.splitlines() if not line.startswith(" "))
    papers = re.findall(r"arXiv\s+(\d{4}\.\d{5})", text)
    return Entry(name, what, papers[0] if papers else "", family)
