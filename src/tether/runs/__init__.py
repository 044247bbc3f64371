"""A run in its folder: plan, configuration, training, checkpoints, records, report."""
