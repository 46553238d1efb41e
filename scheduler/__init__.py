"""Policy: every sequence, every batch, every block table. Knows nothing about text and nothing about tensors."""
