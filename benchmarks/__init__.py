"""Measurements and what they gave. A package, as others install one of this name by mistake (pyarrow 17)."""
