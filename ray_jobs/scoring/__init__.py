"""Scores a file of predictions in its benchmark's official format: ``python -m ray_jobs.evaluate score``."""
