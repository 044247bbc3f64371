"""Off-policy evaluation: what policies are worth, from logged data alone. Pure functions, as the algorithms are."""

from tether.ope.estimators import Estimate, doubly_robust, importance_sampling
from tether.ope.fitted_q import FittedQ, Values, fit_values
from tether.ope.propensities import importance_ratios

__all__ = ["Estimate", "FittedQ", "Values", "doubly_robust", "fit_values", "importance_ratios", "importance_sampling"]
