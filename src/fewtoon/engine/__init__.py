"""The training engine: it owns time and files, and no mathematics."""
