"""Processes for untrusted work, with limits of time and memory that the kernel enforces."""
