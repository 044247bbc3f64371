"""Sweeps larger than one program: algorithms x data sets x settings x seeds, as jobs that are retried and resumed."""

from tether.studies.sweep.spec import Job, SweepSpec, load_spec

__all__ = ["Job", "SweepSpec", "load_spec"]
