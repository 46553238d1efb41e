"""Pages and prefixes as integers: block hashes and page pools. Imports nothing of ours, knows no tensors and no sequences."""
