"""The one exception for bad input."""

__all__ = ["InputError"]


class InputError(ValueError):
    """Something that was given is wrong: one line that names the value, the place and the choices."""
