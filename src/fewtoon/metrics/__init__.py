"""Evaluation: distances, identity, memorisation, and the report."""
