"""What a sweep is made of: its space, the files of its trials, the search, early ends, room for trials, and results."""
