"""Sends jobs to a cluster: what travels, under which name, and how its end is known."""
