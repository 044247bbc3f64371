"""What people look at: one page for a study, its tables and its figures."""

from tether.studies.report.making import make_report

__all__ = ["make_report"]
