"""Policies that leave: as ONNX, StableHLO, or array operations for NumPy alone (docs/export.md)."""
