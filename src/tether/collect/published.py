"""What D4RL published of its locomotion sets (arXiv 2004.07219, version 2 of the files): to measure protocol sets by.

A protocol set is collected as D4RL's were: SAC, stopped when its policy has a part of the expert's return, then rolled
out with its noise. It is never D4RL's data: another SAC, another simulator, other random numbers.
"""

from typing import NamedTuple

__all__ = ["D4RL_SETS", "PROTOCOL", "PublishedSet", "medium_return"]

PROTOCOL = "D4RL's protocol, not D4RL's data: a protocol set"


class PublishedSet(NamedTuple):
    """A file of D4RL's."""

    rows: int
    episodes: int
    return_mean: float
    return_std: float

    @property
    def length_mean(self) -> float:
        """Steps of an episode."""
        return self.rows / self.episodes


D4RL_SETS: dict[tuple[str, str], PublishedSet] = {
    ("halfcheetah", "medium"): PublishedSet(1_000_000, 1000, 4770.0, 356.0),
    ("halfcheetah", "medium-replay"): PublishedSet(202_000, 202, 3093.0, 1681.0),
    ("halfcheetah", "medium-expert"): PublishedSet(2_000_000, 2000, 7713.0, 2970.0),
    ("halfcheetah", "expert"): PublishedSet(1_000_000, 1000, 10_656.0, 442.0),
    ("hopper", "medium"): PublishedSet(999_906, 2186, 1422.0, 379.0),
    ("hopper", "medium-replay"): PublishedSet(402_000, 2041, 467.0, 511.0),
    ("hopper", "medium-expert"): PublishedSet(1_999_400, 3213, 2090.0, 1040.0),
    ("hopper", "expert"): PublishedSet(999_494, 1027, 3511.0, 329.0),
    ("walker2d", "medium"): PublishedSet(999_995, 1190, 2852.0, 1095.0),
    ("walker2d", "medium-replay"): PublishedSet(302_000, 1093, 683.0, 896.0),
    ("walker2d", "medium-expert"): PublishedSet(1_999_209, 2190, 3797.0, 1312.0),
    ("walker2d", "expert"): PublishedSet(999_214, 1000, 4921.0, 136.0),
}
"""(task, kind) -> what its file holds."""


def medium_return(task: str) -> float | None:
    """The mean return of D4RL's medium set, at which its policy was stopped; None where there is none."""
    found = D4RL_SETS.get((task, "medium"))
    return None if found is None else found.return_mean
