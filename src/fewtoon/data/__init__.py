"""Packs: prepared pictures, and the drawn world that tests and the demo live on."""
