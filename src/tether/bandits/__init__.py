"""The papers' 2-D problems with known answers, and how to score a policy on them."""

from tether.bandits.problems import PROBLEMS, Points, Problem, get_problem
from tether.bandits.scores import (
    Scores,
    energy_distance,
    ideal_samples,
    modes_covered,
    off_support_share,
    reference_scores,
    score,
    share_in_best_modes,
    sliced_wasserstein,
)

__all__ = [
    "PROBLEMS",
    "Points",
    "Problem",
    "Scores",
    "energy_distance",
    "get_problem",
    "ideal_samples",
    "modes_covered",
    "off_support_share",
    "reference_scores",
    "score",
    "share_in_best_modes",
    "sliced_wasserstein",
]
