"""The algorithms in words: what each is, its paper and family."""

import inspect
import re
import sys
from typing import NamedTuple

from tether.algorithms import ALGORITHMS, FAMILIES
from tether.errors import InputError

__all__ = ["OTHERS", "Entry", "catalogue", "entry_of"]

OTHERS = "of others"
"""The family of what is not the library's own."""


_FAMILY_OF = {name: family for family, names in FAMILIES.items() for name in names}


class Entry(NamedTuple):
    """One algorithm, as the header of its file describes it."""

    name: str
    what: str  # the first line of its file, or of its class (a user's, or one of several in a file), without references
    paper: str  # arXiv id, such as "2405.19690"; empty where there is none
    family: str


def catalogue() -> dict[str, Entry]:
    """Every algorithm, in the registry's order."""
    return {name: entry_of(name) for name in ALGORITHMS}


def entry_of(name: str) -> Entry:
    """The algorithm of that name; where there is none, or its package cannot be used here, an entry that says why."""
    family = _FAMILY_OF.get(name, OTHERS)
    try:
        cls = ALGORITHMS.find(name)
    except InputError as error:
        return Entry(name, f"cannot be used: {error}", "", family)
    header = sys.modules[cls.__module__].__doc__ or ""
    own = inspect.getdoc(cls) or ""
    if name not in _FAMILY_OF or sum(ALGORITHMS[other].__module__ == cls.__module__ for other in _FAMILY_OF) > 1:
        texts = (own, header, name)  # the file is no algorithm's alone
    else:
        texts = (header, own, name)
    what = next(text.strip() for text in texts if text.strip()).splitlines()[0].split(": ", 1)[-1]
    what = re.sub(r"\s*\([^()]*(?:arXiv|et al)[^()]*\)", "", what).removesuffix(".")
    # The text says whose the algorithm is; what is set in, beside the equations, whose form of it.
    text = "\n".join(line for line in header.splitlines() if not line.startswith(" "))
    papers = re.findall(r"arXiv\s+(\d{4}\.\d{5})", text)
    return Entry(name, what, papers[0] if papers else "", family)
