"""SeTok: dynamic semantic tokens of an image, and Setokim, the language model that reads and writes them."""
