"""The scheduler, which decides what every worker computes, and keeps all sequences, batches and block tables."""
