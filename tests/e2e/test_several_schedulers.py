"""Tests of one gateway with two schedulers, of which one is killed or frozen: its streams resume on the other."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ollama
import openai
import pytest

from tests.e2e.tiers import GatewayTier, SchedulerTier, Tiers

MODEL = "smollm2:135m"
BEGINNINGS = ["A dragon", "The sea", "My neighbour", "In winter", "One evening", "The old clock"]
NUM_TOKENS = 96


# An answer under this schema is longer than NUM_TOKENS.
SENTENCES = {"type": "array", "items": {"type": "string", "maxLength": 60}, "minItems": 20}
FORM = {"type": "json_schema", "json_schema": {"name": "sentences", "schema": SENTENCES}}


def guided(gateway: GatewayTier, beginning: str) -> Iterator[str]:
    return chat(gateway, beginning, response_format=FORM)


def chat(gateway: GatewayTier, beginning: str, **fields: object) -> Iterator[str]:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as client:
        chunks = client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": f"Tell me a tale that begins with: {beginning}"}],
            max_tokens=NUM_TOKENS,
            seed=7,
            stream=True,
            extra_body={"ignore_eos": True, **fields},
        )
        yield from (chunk.choices[0].delta.content or "" for chunk in chunks)


def generate(gateway: GatewayTier, beginning: str) -> Iterator[str]:
    options = {"num_predict": NUM_TOKENS, "temperature": 0}
    with ollama.Client(gateway.url) as client:
        for part in client.generate(MODEL, beginning, raw=True, options=options, stream=True):
            yield part.response or ""


def streams(gateway: GatewayTier) -> list[Iterator[str]]:
    """Return the streams: seeded through OpenAI's client, greedy through Ollama's, or held to a schema."""
    return [(chat, generate, guided)[number % 3](gateway, beginning) for number, beginning in enumerate(BEGINNINGS)]


def texts(streams: list[Iterator[str]]) -> list[str]:
    with ThreadPoolExecutor(len(streams)) as pool:
        return list(pool.map("".join, streams))


@pytest.mark.parametrize("disturb", [SchedulerTier.kill, SchedulerTier.freeze], ids=["killed", "frozen"])
def test_streams_go_on_at_the_other_scheduler(
    home: Path, tmp_path: Path, disturb: Callable[[SchedulerTier], None]
) -> None:
    with Tiers(home, tmp_path) as tiers:
        schedulers = [tiers.scheduler(), tiers.scheduler()]
        for _ in range(2):
            # They spread soon, so that each scheduler has one.
            tiers.worker(schedulers, "--spread-interval-s", "0.5")
        gateway = tiers.gateway(schedulers, "--scheduler-silence-s", "2")
        for scheduler in schedulers:
            scheduler.wait_until_serving()
        gateway.wait_until_ready()
        undisturbed = texts(streams(gateway))
        running = streams(gateway)
        with ThreadPoolExecutor(len(running)) as pool:
            heads = list(pool.map(next, running))
        num_open = {
            each: gateway.metric("pagoda_scheduler_open_requests", scheduler=each.address) for each in schedulers
        }
        busier = max(schedulers, key=num_open.__getitem__)
        disturb(busier)
        tails = texts(running)
        assert [head + tail for head, tail in zip(heads, tails, strict=True)] == undisturbed
        # On a fast machine some may have ended before.
        assert 0 < gateway.metric("pagoda_moved_samples_total") <= num_open[busier]
        assert gateway.metric("pagoda_scheduler_up", scheduler=busier.address) == 0
