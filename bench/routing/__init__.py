"""How well requests are routed: the scheduler's own loop in virtual time, and real workers behind each policy."""
