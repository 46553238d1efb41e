"""Tests of the official `openai` client against the real system and the real model."""

import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam
from openai.types.chat.chat_completion import Choice

MODEL = "smollm2:135m"
# The model answers it with certainty, in a few tokens.
QUESTION: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What is the capital of Japan?"}]


def test_models(openai_client: OpenAI) -> None:
    models = openai_client.models.list().data
    assert models[0].id == MODEL
    assert openai_client.models.retrieve(MODEL).id == MODEL


def test_a_chat_answers(openai_client: OpenAI) -> None:
    answer = openai_client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=0, max_tokens=32)
    choice = answer.choices[0]
    assert "Tokyo" in (choice.message.content or "")
    assert choice.message.role == "assistant"
    assert choice.finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_stream_says_the_same(openai_client: OpenAI) -> None:
    whole = openai_client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=0, max_tokens=32)
    chunks = list(
        openai_client.chat.completions.create(
            model=MODEL,
            messages=QUESTION,
            temperature=0,
            max_tokens=32,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert len(chunks) > 4
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].usage is not None and whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_tokens_are_allowed_banned_and_named_by_the_request(openai_client: OpenAI) -> None:
    def ask(**fields: object) -> Choice:
        answer = openai_client.chat.completions.create(
            model=MODEL,
            messages=QUESTION,
            temperature=0,
            max_tokens=16,
            logprobs=True,
            extra_body={"return_token_ids": True, **fields},
        )
        return answer.choices[0]

    def ids(choice: Choice) -> list[int]:
        return list((choice.model_extra or {})["token_ids"])

    plain = ask()
    assert "Tokyo" in (plain.message.content or "")
    assert "Tokyo" not in (ask(bad_words=["Tokyo"]).message.content or "")
    some = ids(plain)[:3]
    allowed = ask(allowed_token_ids=some)
    assert set(ids(allowed)) <= set(some) and allowed.finish_reason == "length"
    named = ask(logprob_token_ids=some)
    assert ids(named) == ids(plain) and named.logprobs is not None
    for token_id, token in zip(ids(named), named.logprobs.content or (), strict=True):
        assert len(token.top_logprobs) == 3
        assert token_id not in some or token.logprob == token.top_logprobs[some.index(token_id)].logprob


def test_samples_differ_and_each_seed_repeats_itself(openai_client: OpenAI) -> None:
    def ask(seed: int) -> list[str | None]:
        answer = openai_client.chat.completions.create(
            model=MODEL, messages=QUESTION, temperature=1.5, max_tokens=24, n=3, seed=seed
        )
        return [choice.message.content for choice in sorted(answer.choices, key=lambda choice: choice.index)]

    first = ask(11)
    assert len(set(first)) == 3
    assert ask(11) == first
    assert ask(12) != first


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_ends_the_answer_and_is_not_shown(openai_client: OpenAI, stream: bool) -> None:
    prompt = "one, two, three, four, five, six, seven,"
    answer = openai_client.completions.create(
        model=MODEL, prompt=prompt, temperature=0, max_tokens=24, stop=["nine"], stream=stream
    )
    choices = [chunk.choices[0] for chunk in ([answer] if not stream else answer)]  # type: ignore[union-attr]  # one overload each
    text = "".join(choice.text for choice in choices)
    assert "eight" in text
    assert "nin" not in text
    assert choices[-1].finish_reason == "stop"


def test_logprobs(openai_client: OpenAI) -> None:
    answer = openai_client.chat.completions.create(
        model=MODEL, messages=QUESTION, temperature=0, max_tokens=4, logprobs=True, top_logprobs=3
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None and logprobs.content is not None
    assert len(logprobs.content) == 4
    for token in logprobs.content:
        assert len(token.top_logprobs) == 3
        # Greedy: the chosen token is the most probable one.
        assert token.token == token.top_logprobs[0].token
        assert token.logprob == pytest.approx(token.top_logprobs[0].logprob)
        assert token.logprob <= 0


def test_a_repeated_prompt_is_cached(openai_client: OpenAI) -> None:
    prompt = list(range(2000, 2100))  # 100 tokens: six full blocks of 16, in no other test.
    cached = []
    for _ in range(2):
        answer = openai_client.completions.create(model=MODEL, prompt=prompt, temperature=0, max_tokens=4)
        assert answer.usage is not None and answer.usage.prompt_tokens_details is not None
        assert answer.usage.prompt_tokens == 100
        cached.append(answer.usage.prompt_tokens_details.cached_tokens)
    assert cached == [0, 96]


def test_ignore_eos_gives_exact_lengths(openai_client: OpenAI) -> None:
    answer = openai_client.completions.create(
        model=MODEL, prompt="Hello", max_tokens=40, temperature=0, extra_body={"ignore_eos": True}
    )
    assert answer.usage is not None and answer.usage.completion_tokens == 40
    assert answer.choices[0].finish_reason == "length"


def test_a_text_is_scored_as_it_would_be_while_it_is_generated(openai_client: OpenAI) -> None:
    text = "The capital of Japan is"
    generated = openai_client.completions.create(
        model=MODEL, prompt=text, temperature=0, max_tokens=8, logprobs=1, extra_body={"return_token_ids": True}
    ).choices[0]
    assert generated.logprobs is not None and generated.model_extra is not None
    token_ids = [*generated.model_extra["prompt_token_ids"], *generated.model_extra["token_ids"]]
    scored = openai_client.completions.create(model=MODEL, prompt=token_ids, echo=True, max_tokens=0, logprobs=1)
    assert scored.choices[0].text == text + generated.text
    logprobs = scored.choices[0].logprobs
    assert logprobs is not None and logprobs.token_logprobs is not None and logprobs.top_logprobs is not None
    assert len(logprobs.token_logprobs) == len(token_ids) and logprobs.token_logprobs[0] is None
    assert logprobs.token_logprobs[-8:] == generated.logprobs.token_logprobs
    assert logprobs.top_logprobs[-8:] == generated.logprobs.top_logprobs
