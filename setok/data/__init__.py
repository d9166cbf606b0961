"""Where pictures and texts come from, and in which order."""
