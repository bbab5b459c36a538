"""Losses: each with its equation and its source."""
