"""Chat templates in Go, which Ollama's models have: known ones are recognised by their text, and have a template in Jinja."""


def jinja_of(go_template: str) -> str | None:
    """Return the Jinja template that writes the same prompts, or None for a template that is not known."""
    return None
