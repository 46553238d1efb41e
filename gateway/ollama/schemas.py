"""The bodies of Ollama's endpoints, as far as they are supported, and what is accepted beside that because it changes nothing."""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from gateway.bodies import Schema
from gateway.fields import (
    MinP,
    NumLogprobs,
    Penalty,
    PositiveCount,
    RepetitionPenalty,
    Seed,
    Stop,
    Temperature,
    TopP,
    described,
)

_DURATION = re.compile(r"[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:ns|us|µs|ms|s|m|h))+|[+-]?0")


def _check_duration(value: float | str) -> float | str:
    if isinstance(value, str) and not _DURATION.fullmatch(value):
        raise ValueError('must be a number of seconds or a duration such as "5m"')
    return value


KeepAlive = Annotated[
    float | str, AfterValidator(_check_duration), described('a number of seconds or a duration such as "5m"')
]


class Options(Schema):
    """Sampling is taken as it is meant; what steers Ollama's runner (memory, threads, layers) is the scheduler's business here."""

    neutral = MappingProxyType(
        {"mirostat": (0,), "mirostat_eta": (0.1,), "mirostat_tau": (5.0, 5), "tfs_z": (1.0, 1), "typical_p": (1.0, 1)}
    )
    # num_keep says what survives a shift of the context, which never happens here.
    hints = frozenset(
        {
            "draft_num_predict",
            "f16_kv",
            "logits_all",
            "low_vram",
            "main_gpu",
            "num_batch",
            "num_gpu",
            "num_keep",
            "num_thread",
            "numa",
            "penalize_newline",
            "use_mlock",
            "use_mmap",
            "vocab_only",
        }
    )

    num_predict: Annotated[int, Field(ge=-2, le=2**31 - 1)] | None = None
    num_ctx: PositiveCount | None = None
    seed: Seed | None = None
    temperature: Temperature | None = None
    top_k: Annotated[int, Field(ge=-1, le=2**31 - 1)] | None = None
    top_p: TopP | None = None
    min_p: MinP | None = None
    repeat_penalty: RepetitionPenalty | None = None
    repeat_last_n: Annotated[int, Field(ge=-1, le=2**31 - 1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    stop: Stop | None = None


# truncate and shift say what to do with a prompt or an answer that outgrows the window. Here such a prompt is always an
# error and such an answer always ends, so that nothing is lost unnoticed.
_HINTS = frozenset({"truncate", "shift"})
_NEUTRAL: Mapping[str, tuple[Any, ...]] = MappingProxyType(
    {"_debug_render_only": (False,), "format": ("",), "think": (False,)}
)


class _GenerationRequest(Schema):
    hints: ClassVar[frozenset[str]] = _HINTS

    model: str = ""
    stream: bool | None = None
    keep_alive: KeepAlive | None = None
    options: Options | None = None
    logprobs: bool | None = None
    top_logprobs: NumLogprobs | None = None

    @property
    def unloads(self) -> bool:
        """Whether keep_alive is zero, in any spelling."""
        if isinstance(self.keep_alive, str):
            return not re.search(r"[1-9]", self.keep_alive)
        return self.keep_alive == 0


class GenerateRequest(_GenerationRequest):
    neutral = MappingProxyType({**_NEUTRAL, "context": ([],), "images": ([],), "suffix": ("",), "template": ("",)})

    prompt: str | None = None
    system: str | None = None
    raw: bool | None = None


def _lower(role: Any) -> Any:
    return role.lower() if isinstance(role, str) else role


class ChatMessage(Schema):
    neutral = MappingProxyType(
        {"images": ([],), "thinking": ("",), "tool_call_id": ("",), "tool_calls": ([],), "tool_name": ("",)}
    )

    role: Annotated[Literal["system", "user", "assistant"], BeforeValidator(_lower)]
    content: str = ""


class ChatRequest(_GenerationRequest):
    neutral = MappingProxyType({**_NEUTRAL, "tools": ([],)})

    messages: list[ChatMessage] | None = None


class ShowRequest(Schema):
    neutral = MappingProxyType({"system": ("",), "template": ("",)})
    hints = frozenset({"options"})

    model: str = ""
    name: str = ""
    """The deprecated spelling of `model`."""
    verbose: bool | None = None
