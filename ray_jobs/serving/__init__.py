"""The server: what answers HTTP, with Ray or without."""
