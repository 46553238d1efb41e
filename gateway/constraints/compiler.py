"""The check of grammars in processes of their own, with limits of time and memory, before a request is queued."""

from gateway.models.served_model import ServedModel


class GrammarCompiler:
    """A bounded pool of processes that compile grammars."""

    async def check_grammar(self, model: ServedModel, grammar: str, field: str) -> None:
        """Raise InvalidRequestError that names `field` and the reason if the model's workers could not use the grammar."""

    def close(self) -> None:
        """End the processes."""
