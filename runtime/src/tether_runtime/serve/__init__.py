"""Policies behind HTTP and websockets: `tether serve`, or `tether-serve` where there is no tether."""
