"""Comparisons of routing policies: the scheduler's own loop in virtual time, and real workers."""
