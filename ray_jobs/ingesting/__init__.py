"""The parts of an ingest: tasks, journal, finish, preview, validation."""
