"""Whether a decision is like those of the data: scores, and thresholds whose rate of false alarms is guaranteed."""

from tether.trust.behaviour import has_density
from tether.trust.fitting import Calibrated, calibrate
from tether.trust.support import Scores, Support, reasons, score, threshold, trust_of

__all__ = ["Calibrated", "Scores", "Support", "calibrate", "has_density", "reasons", "score", "threshold", "trust_of"]
