"""How good things are: answers, captions, masks and pictures as the official evaluations of the benchmarks have it, and tokens.

Of tokens: reconstruction, grouping against known objects, counts, nouns, and references to hold them against. What is gathered
over a set lies in accumulators, which workers fill and merge.
"""
