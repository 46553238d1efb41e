"""The text of one sample while its tokens arrive: detokenized, cut at stop strings, with the log-probabilities of its tokens."""

from collections.abc import Sequence
from dataclasses import replace

from gateway.answers.detokenizer import Detokenizer
from gateway.answers.logprobs import token_text
from gateway.answers.stop_strings import StopMatcher
from gateway.answers.text_events import TextDelta, TokenText
from gateway.answers.text_request import TextRequest
from gateway.models.served_model import ServedModel
from gateway.parsing.parts import AnswerPart, CallBegan, ContentPart
from pagoda.wire.events import Tokens
from pagoda.wire.finished import Finished, FinishReason


class SampleText:
    """Text that is safe to emit: complete characters, no possible beginning of a stop string."""

    def __init__(self, index: int, request: TextRequest, model: ServedModel) -> None:
        self.num_tokens = 0
        self.matched_stop: str | None = None
        self._index = index
        self._tokenizer = model.tokenizer
        self._detokenizer = Detokenizer(model.tokenizer, skip_special_tokens=request.skip_special_tokens)
        self._matcher = StopMatcher(request.sampling.stops)
        self._min_tokens = request.sampling.params.min_tokens
        self._include_stop = request.include_stop
        ending = () if request.sampling.params.ignore_eos else model.model.eos_token_ids
        # A token that ends the sample is counted, but is part of the answer only on request.
        self._textless = frozenset(() if request.include_stop else (*request.sampling.params.stop_token_ids, *ending))
        self._logprobs: list[TokenText] = []
        self._token_ids: list[int] = []
        self._parser = None if request.open_parser is None else request.open_parser()
        self._parts: list[AnswerPart] = []
        self.num_calls = 0

    @property
    def num_reasoning_tokens(self) -> int:
        return 0 if self._parser is None else self._parser.num_reasoning_tokens

    def add_tokens(self, tokens: Tokens) -> TextDelta | None:
        """Add tokens and return the text that is now safe to emit, or None if there is none."""
        if self.matched_stop is not None:
            return None
        text = ""
        for position, token_id in enumerate(tokens.token_ids):
            self.num_tokens += 1
            self._token_ids.append(token_id)
            if tokens.logprobs:
                self._logprobs.append(token_text(self._tokenizer, token_id, tokens.logprobs[position]))
            if token_id in self._textless:
                continue
            if self._parser is None:
                text += self._release_text(self._detokenizer.decode_next((token_id,)))
            else:
                text += self._release_parts(self._parser.add_token(token_id))
            if self.matched_stop is not None:
                break
        return self._next_delta(text)

    def flush_text(self) -> TextDelta | None:
        """Return the text that was held back until the sample's end, if no stop string ended it."""
        if self.matched_stop is not None:
            return self._next_delta("", at_end=True)
        if self._parser is None:
            text = self._release_text(self._detokenizer.decode_rest())
        else:
            text = self._release_parts(self._parser.finish())
        if self.matched_stop is None:
            text += self._release_held()
        return self._next_delta(text, at_end=True)

    def billed_finish(self, finished: Finished) -> Finished:
        """Return the end with the usage up to the stop string, even if the scheduler had ended the sample for another reason."""
        if self.matched_stop is None:
            return finished
        usage = replace(finished.usage, num_output_tokens=self.num_tokens)
        return replace(finished, reason=FinishReason.STOP, stop_token_id=None, usage=usage)

    def _release_parts(self, parts: Sequence[AnswerPart]) -> str:
        """Keep the parts that are safe to emit, and return the text among them. Stop strings apply to the text only."""
        text = ""
        for part in parts:
            if isinstance(part, ContentPart):
                released = self._release_text(part.text)
                self._parts += [ContentPart(released)] if released else []
                text += released
                if self.matched_stop is not None:
                    break
            else:
                # No stop string spans a call or reasoning.
                text += self._release_held()
                self._parts.append(part)
                self.num_calls += isinstance(part, CallBegan)
        return text

    def _release_held(self) -> str:
        held = self._matcher.release_held()
        if held and self._parser is not None:
            self._parts.append(ContentPart(held))
        return held

    def _release_text(self, text: str) -> str:
        # Neither a stop token nor a stop string ends a sample before min_tokens.
        if self.num_tokens <= self._min_tokens:
            return text
        released, self.matched_stop = self._matcher.match_next(text)
        return released + (self.matched_stop or "") if self._include_stop else released

    def _next_delta(self, text: str, *, at_end: bool = False) -> TextDelta | None:
        """Return the text with the ids and log-probabilities of its tokens, which wait for it.

        At the end, log-probabilities that have no text are returned too.
        """
        if not text and not self._parts and not (at_end and self._logprobs):
            return None
        logprobs, self._logprobs = tuple(self._logprobs), []
        token_ids, self._token_ids = tuple(self._token_ids), []
        parts = tuple(self._parts)
        self._parts.clear()
        return TextDelta(
            index=self._index,
            text=text,
            logprobs=logprobs,
            token_ids=token_ids,
            num_tokens=self.num_tokens,
            parts=parts,
        )
