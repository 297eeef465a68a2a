"""Measurements: the demo (`make demo`), `hop` (`make bench`), and what they share."""
