"""The conversion of text events into the response objects of chat completions."""

from collections.abc import Sequence

from gateway.answers.text_events import TokenText
from gateway.answers.text_request import TextRequest
from gateway.models.served_model import ServedModel
from gateway.openai.reply import Choice, JSONObject, Reply, reply_form
from gateway.openai.schemas import ChatRequest


class ChatReply(Reply):
    """The reply to a chat completion."""

    id_prefix = "chatcmpl"
    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def __init__(self, body: ChatRequest, model: ServedModel, requests: Sequence[TextRequest]) -> None:
        super().__init__(reply_form(body, model, logprobs=bool(body.logprobs)), requests)

    def _whole_extras(self) -> JSONObject:
        choice = self._choices[0]
        token_ids = {"prompt_token_ids": list(choice.request.prompt_token_ids)} if self._form.token_ids else {}
        return token_ids | self._prompt_logprobs(choice)

    def _begin_choice(self, choice: Choice) -> JSONObject:
        return {"delta": {"role": "assistant", "content": ""}}

    def _text_delta(self, text: str) -> JSONObject:
        return {"delta": {"content": text} if text else {}}

    def _whole_text(self, choice: Choice) -> JSONObject:
        return {"message": {"role": "assistant", "content": "".join(choice.texts), "refusal": None}}

    def _logprobs(self, tokens: Sequence[TokenText], num_characters_before: int) -> JSONObject:
        content = [
            self._scored_token(token) | {"top_logprobs": [self._scored_token(alternative) for alternative in token.top]}
            for token in tokens
        ]
        return {"content": content, "refusal": None}

    def _scored_token(self, token: TokenText) -> JSONObject:
        return {"token": self._token_name(token), "logprob": token.logprob, "bytes": list(token.utf8)}
