"""Pages and prefixes as integers: block hashes, page pools, the prefix index.

Imports nothing of ours, knows no tensors and no sequences.
"""
