"""For those who write algorithms: `check_algorithm` says what is wrong with one, sentence by sentence."""

from tether.testing.check import CheckReport, Failure, check_algorithm
from tether.testing.subject import Expected

__all__ = ["CheckReport", "Expected", "Failure", "check_algorithm"]
