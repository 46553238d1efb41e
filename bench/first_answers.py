"""`python -m bench first-answers` asks the default model ten everyday questions, as a new user would.

A request has messages and a seed, which makes its answer repeatable, and leaves everything else to the server. Each
question is asked through both APIs.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import httpx
import typer

from bench.server import own_server
from pagoda.models.catalogue import DEFAULT_MODEL

QUESTIONS = (
    "What is a pagoda?",
    "hi",
    "Write a short poem about rain.",
    "What is the capital of Peru?",
    "Explain how a bicycle stays upright.",
    "Give me three names for a cat.",
    "Translate 'good evening' to Spanish.",
    "Why is the sky blue?",
    "Write a Python function that adds two numbers.",
    "How do I boil an egg?",
)
SEED = 7
TIMEOUT_S = 600.0
_TITLE = f"""# First answers

The answers of `{DEFAULT_MODEL}` to {{questions}} everyday questions, with nothing set but a seed ({SEED}), through
`/v1/chat/completions` and `/api/chat`. {{ended}} of {{answers}} answers end by themselves. `make first-answers` writes
this page. The default numeric mode gives the same answers on any machine. The sampling parameters are in
[docs/sampling-defaults.md](../../docs/sampling-defaults.md).

A model of 135 million parameters writes well and knows little: its answers need not be true.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    text: str
    num_tokens: int
    ended: str
    """Reason in the API's own words, such as "stop" if the model ended the answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstAnswer:
    question: str
    openai: Answer
    ollama: Answer


def first_answers(
    output: Annotated[Path | None, typer.Option(help="Markdown file for the page. Default: stdout.")] = None,
) -> None:
    """Ask the default model ten everyday questions through both APIs, and write a page with its answers."""
    with own_server(DEFAULT_MODEL, ("--ollama-port", "0")) as url:
        text = page(asyncio.run(ask_all(url.removesuffix("/v1"))))
    if output is None:
        print(text)
    else:
        output.write_text(text)


async def ask_all(url: str, questions: Sequence[str] = QUESTIONS) -> list[FirstAnswer]:
    """Ask all questions at once; answers do not depend on other requests. Raises httpx.HTTPStatusError if one is refused."""
    async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S, trust_env=False) as http:
        return await asyncio.gather(*(_ask(http, question) for question in questions))


async def _ask(http: httpx.AsyncClient, question: str) -> FirstAnswer:
    asked = {"model": DEFAULT_MODEL, "messages": [{"role": "user", "content": question}]}
    openai, ollama = await asyncio.gather(
        http.post("/v1/chat/completions", json={**asked, "seed": SEED}),
        http.post("/api/chat", json={**asked, "stream": False, "options": {"seed": SEED}}),
    )
    whole = openai.raise_for_status().json()
    choice = whole["choices"][0]
    reply = ollama.raise_for_status().json()
    return FirstAnswer(
        question=question,
        openai=Answer(
            text=choice["message"]["content"],
            num_tokens=whole["usage"]["completion_tokens"],
            ended=choice["finish_reason"],
        ),
        ollama=Answer(text=reply["message"]["content"], num_tokens=reply["eval_count"], ended=reply["done_reason"]),
    )


def page(answers: Sequence[FirstAnswer]) -> str:
    """Return the page with all answers as Markdown."""
    ended = sum(each.ended == "stop" for answer in answers for each in (answer.openai, answer.ollama))
    return "\n".join(
        (_TITLE.format(questions=len(answers), answers=2 * len(answers), ended=ended), *map(section, answers))
    )


def section(answer: FirstAnswer) -> str:
    return f"## {answer.question}\n\n{_answer('OpenAI', answer.openai)}\n{_answer('Ollama', answer.ollama)}"


def _answer(api: str, answer: Answer) -> str:
    # Four backticks, because answers may contain code blocks of three.
    return f"{api}, {answer.num_tokens} tokens, ended by `{answer.ended}`:\n\n````text\n{answer.text}\n````\n"
