"""The data doctor: examines logged data for the faults that real data sets had, grades and repairs (docs/doctor.md)."""

from tether.doctor.findings import CODES, Code, Finding, Place
from tether.doctor.raw import RawColumns, read_raw
from tether.doctor.report import Report, check, fix, repair

__all__ = ["CODES", "Code", "Finding", "Place", "RawColumns", "Report", "check", "fix", "read_raw", "repair"]
