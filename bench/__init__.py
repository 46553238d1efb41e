"""Benchmarks of OpenAI-compatible servers, measured from outside, and of single parts of Pagoda."""
