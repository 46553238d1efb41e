"""The conversion of text events into the response objects of chat completions."""

from collections.abc import Sequence

from gateway.answers.logprobs import token_object
from gateway.answers.text_events import SampleEnded, TokenText
from gateway.answers.text_request import TextRequest
from gateway.answers.whole_answer import WholeCall
from gateway.models.served_model import ServedModel
from gateway.openai.reply import Choice, JSONObject, Reply, reply_form
from gateway.openai.schemas import ChatRequest
from gateway.parsing.parts import AnswerPart, CallArguments, CallBegan, ContentPart, ReasoningPart
from pagoda.wire.finished import FinishReason


class ChatReply(Reply):
    """The reply to a chat completion."""

    id_prefix = "chatcmpl"
    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def __init__(self, body: ChatRequest, model: ServedModel, requests: Sequence[TextRequest]) -> None:
        super().__init__(reply_form(body, model, logprobs=bool(body.logprobs)), requests)
        self._has_reasoning = body.include_reasoning is not False
        self._has_function_call = body.has_functions
        """True if calls have their older form, which is one function."""
        # An answer that is only a call has no content, so a stream cannot begin with an empty one.
        self._first_content = None if body.offered_tools else ""

    def _whole_extras(self) -> JSONObject:
        choice = self._choices[0]
        token_ids = {"prompt_token_ids": list(choice.request.prompt_token_ids)} if self._form.token_ids else {}
        return token_ids | self._prompt_logprobs(choice)

    def _begin_choice(self, choice: Choice) -> JSONObject:
        return {"delta": {"role": "assistant", "content": self._first_content}}

    def _delta(self, text: str, parts: Sequence[AnswerPart]) -> JSONObject:
        if not parts:
            return {"delta": {"content": text} if text else {}}
        delta: JSONObject = {}
        calls: dict[int, JSONObject] = {}
        for part in parts:
            match part:
                case ContentPart():
                    delta["content"] = delta.get("content", "") + part.text
                case ReasoningPart():
                    delta |= self._reasoning(delta.get("reasoning", "") + part.text)
                case CallBegan():
                    function = {"name": part.name, "arguments": ""}
                    calls[part.index] = {"index": part.index, "id": part.id, "type": "function", "function": function}
                case CallArguments():
                    call = calls.setdefault(part.index, {"index": part.index, "function": {"arguments": ""}})
                    call["function"]["arguments"] += part.text
        if not calls:
            return {"delta": delta}
        if self._has_function_call:
            return {"delta": delta | ({"function_call": calls[0]["function"]} if 0 in calls else {})}
        return {"delta": delta | {"tool_calls": list(calls.values())}}

    def _whole_text(self, choice: Choice) -> JSONObject:
        answer, calls = choice.answer, choice.answer.calls
        content = None if calls and not answer.text else answer.text
        message: JSONObject = {"role": "assistant", "content": content, "refusal": None}
        return {"message": message | self._reasoning(answer.reasoning) | self._whole_calls(calls)}

    def _whole_calls(self, calls: Sequence[WholeCall]) -> JSONObject:
        if not calls:
            return {}
        if self._has_function_call:
            return {"function_call": _function(calls[0])}
        return {"tool_calls": [{"id": call.id, "type": "function", "function": _function(call)} for call in calls]}

    def _reasoning(self, text: str) -> JSONObject:
        """Return the reasoning under both of the names that clients read, or nothing if there is none."""
        return {"reasoning": text, "reasoning_content": text} if text and self._has_reasoning else {}

    def _finish_reason(self, end: SampleEnded) -> str:
        if end.num_calls and end.reason is FinishReason.STOP:
            return "function_call" if self._has_function_call else "tool_calls"
        return super()._finish_reason(end)

    def _usage(self) -> JSONObject:
        num_reasoning = sum(end.num_reasoning_tokens for end in self._ends())
        return super()._usage() | {"completion_tokens_details": {"reasoning_tokens": num_reasoning}}

    def _logprobs(self, tokens: Sequence[TokenText], num_characters_before: int) -> JSONObject:
        return {"content": [token_object(token, self._token_name) for token in tokens], "refusal": None}


def _function(call: WholeCall) -> JSONObject:
    return {"name": call.name, "arguments": call.arguments}
