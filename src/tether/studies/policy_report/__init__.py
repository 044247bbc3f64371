"""What a policy would do beside what was logged: one page for those who answer for the plant or the robot."""

from tether.studies.policy_report.making import make_policy_report

__all__ = ["make_policy_report"]
