"""The policy tier: every sequence, every batch, every block table. Text is in the gateway, tensors are in the workers."""
