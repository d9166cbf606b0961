"""Plans as people and programs read them, and the cluster that is running."""
