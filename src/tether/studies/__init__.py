"""Many runs, one verdict: comparisons and sweeps."""
