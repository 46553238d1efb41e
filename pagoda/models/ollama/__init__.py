"""Ollama's formats: manifests and their layers, the store of an installation, and templates in Go."""
