"""A load client for any OpenAI-compatible server. Imports nothing of Pagoda: it measures from outside."""
