"""The `tether` command: one file per verb, command.py chooses among them."""

from tether.cli.command import main, parse

__all__ = ["main", "parse"]
