"""The only doors for pictures and weights."""
