"""Benchmarks: of any OpenAI-compatible server from outside, and of single parts of Pagoda."""
