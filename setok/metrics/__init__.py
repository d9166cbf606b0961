"""How good tokens are: reconstruction, grouping against known objects, token counts, and references to hold them against."""
