"""The `tether` command: one file per verb."""
