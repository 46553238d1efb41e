"""vLLM's flags on `pagoda serve`: those that mean what one of ours does become it, others are refused with what to do here.

What changes nothing here is left out, with a line that says so. An underscore in a flag is a hyphen, as with vLLM.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import typer
from typer.core import TyperCommand

from pagoda.cli.failure import CommandError, fail

Tokens = tuple[str, ...]
_NONE: Tokens = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Flag:
    """One flag of vLLM's. Exactly the values in `values` are known, unless it `becomes` something with any value."""

    becomes: Callable[[str], Tokens] | None = None
    values: Mapping[str, Tokens] = field(default_factory=lambda: MappingProxyType({}))
    """What a value means in our words; no words are that it changes nothing."""
    any_value: bool = False
    """Whatever it says changes nothing here."""
    is_switch: bool = False
    """It has no value."""
    instead: str = ""
    """What to do here, as the end of a sentence."""

    def words(self, name: str, value: str) -> Tokens:
        """Raises CommandError for what has no words here."""
        if self.becomes is not None:
            return self.becomes(value)
        if self.any_value:
            return _NONE
        if value in self.values:
            return self.values[value]
        written = name if self.is_switch else f"{name} {value}"
        known = ", ".join(each for each in self.values if each)
        allowed = f" (allowed: {known})" if known else ""
        raise CommandError(f"{written} is not supported{allowed}; {self.instead or 'leave it out'}")


def _renamed(ours: str) -> _Flag:
    return _Flag(becomes=lambda value: (f"{ours}={value}",))


def _neutral(*values: str, instead: str = "") -> _Flag:
    return _Flag(values=dict.fromkeys(values, _NONE), instead=instead)


def _switch_off(instead: str) -> _Flag:
    return _Flag(is_switch=True, instead=instead)


def _length(value: str) -> Tokens:
    """vLLM also writes 8k for 8000 and 8K for 8192, and has no word for the model's own but `auto` and -1."""
    if value in ("auto", "-1"):
        return _NONE
    factor = {"k": 1000, "K": 1024}.get(value[-1:], 1)
    try:
        number = float(value[:-1] if factor > 1 else value) * factor
    except ValueError:
        return (f"--max-model-len={value}",)
    return (f"--max-model-len={int(number) if number == number // 1 else value}",)


def _origins(value: str) -> Tokens:
    """vLLM has them as a list in JSON."""
    try:
        listed = json.loads(value)
    except ValueError:
        listed = value
    return (f"--allowed-origins={','.join(listed) if isinstance(listed, list) else listed}",)


_CHANGES_NOTHING = _Flag(is_switch=True, values={"": _NONE})
_ANYTHING = _Flag(any_value=True)
_GROUPS = "groups of devices are not supported yet; --workers N starts N workers with the whole model each"
_TOOLS = "tool calls and reasoning are not parsed yet; leave it out"
_ADAPTERS = "adapters are not supported yet; leave it out"
_PROXY = "put a reverse proxy in front for that"

FLAGS: Mapping[str, _Flag] = MappingProxyType(
    {
        # With a word of our own.
        "--allowed-origins": _Flag(becomes=_origins),
        "--data-parallel-size": _renamed("--workers"),
        "-dp": _renamed("--workers"),
        "--generation-config": _Flag(
            values={"auto": ("--sampling-defaults=model",), "vllm": ("--sampling-defaults=neutral",)},
            instead="what the model's own file says is in use, and PARAMETER in a Modelfile goes before it",
        ),
        "--kv-cache-dtype": _Flag(
            values={"auto": _NONE, "int8": ("--kv-dtype=int8",), "int16": ("--kv-dtype=int16",)},
            instead="use --kv-dtype int8 or int16",
        ),
        "--max-model-len": _Flag(becomes=_length),
        "--max-num-batched-tokens": _renamed("--max-step-tokens"),
        "--max-num-seqs": _renamed("--max-step-sequences"),
        # Known, and done otherwise here.
        "--chat-template": _Flag(instead="write it into a Modelfile as TEMPLATE, then: pagoda create NAME"),
        "--config": _Flag(instead="give the options themselves; each is also an environment variable"),
        "--download-dir": _Flag(instead="use --home DIRECTORY (or PAGODA_HOME)"),
        "--gpu-memory-utilization": _Flag(instead="use --kv-memory SIZE, such as 4GiB, for keys and values"),
        "--hf-token": _Flag(instead="the Hugging Face hub is not supported yet; give a model's path"),
        "--kv-cache-memory-bytes": _renamed("--kv-memory"),
        "--override-generation-config": _Flag(
            instead="write PARAMETER lines into a Modelfile, then: pagoda create NAME"
        ),
        "--root-path": _Flag(instead="let the reverse proxy take the prefix off"),
        "--served-model-name": _Flag(instead="give the model another name with: pagoda cp MODEL NAME"),
        "--ssl-certfile": _Flag(instead=_PROXY),
        "--ssl-keyfile": _Flag(instead=_PROXY),
        "--tokenizer": _Flag(instead="it is the one in the model's files; leave it out"),
        "--uds": _Flag(instead="use --host and --port"),
        # Not there yet.
        "--chat-template-content-format": _neutral("auto", "string"),
        "--decode-context-parallel-size": _neutral("1", instead=_GROUPS),
        "--enable-auto-tool-choice": _switch_off(_TOOLS),
        "--enable-expert-parallel": _switch_off(_GROUPS),
        "--enable-lora": _switch_off(_ADAPTERS),
        "--lora-modules": _Flag(instead=_ADAPTERS),
        "--pipeline-parallel-size": _neutral("1", instead=_GROUPS),
        "-pp": _neutral("1", instead=_GROUPS),
        "--reasoning-parser": _Flag(instead=_TOOLS),
        "--speculative-config": _Flag(instead="speculation is not supported yet; leave it out"),
        "--tensor-parallel-size": _neutral("1", instead=_GROUPS),
        "-tp": _neutral("1", instead=_GROUPS),
        "--tool-call-parser": _Flag(instead=_TOOLS),
        # What is so anyway, or has no counterpart that could change an answer.
        "--block-size": _neutral("16", instead="pages have 16 tokens; leave it out"),
        "--code-revision": _ANYTHING,
        "--cpu-offload-gb": _neutral("0", instead="weights stay where they are; leave it out"),
        "--disable-log-requests": _CHANGES_NOTHING,
        "--disable-log-stats": _CHANGES_NOTHING,
        "--disable-uvicorn-access-log": _CHANGES_NOTHING,
        "--distributed-executor-backend": _ANYTHING,
        "--dtype": _neutral("auto", instead="use --numerics integer or float32"),
        "--enable-chunked-prefill": _CHANGES_NOTHING,
        "--enable-log-requests": _CHANGES_NOTHING,
        "--enable-prefix-caching": _CHANGES_NOTHING,
        "--enable-prompt-tokens-details": _CHANGES_NOTHING,
        "--enable-server-load-tracking": _CHANGES_NOTHING,
        "--enforce-eager": _CHANGES_NOTHING,
        "--load-format": _neutral("auto", "gguf", "safetensors", instead="the file says what it is; leave it out"),
        "--max-log-len": _ANYTHING,
        "--no-enable-log-requests": _CHANGES_NOTHING,
        "--no-enable-prefix-caching": _switch_off(
            "prefixes are always cached; a cache_salt in a request keeps its own apart"
        ),
        "--quantization": _neutral("gguf", "None", instead="the file says what it is; leave it out"),
        "-q": _neutral("gguf", "None", instead="the file says what it is; leave it out"),
        "--runner": _neutral("auto", "generate", instead="this server generates text"),
        "--scheduling-policy": _neutral("priority", "fcfs"),
        "--seed": _neutral("0", "None", instead="each request may name its own seed"),
        "--swap-space": _ANYTHING,
        "--task": _neutral("auto", "generate", instead="this server generates text"),
        "--tokenizer-mode": _neutral("auto"),
        "--trust-remote-code": _CHANGES_NOTHING,
        "--uvicorn-log-level": _ANYTHING,
    }
)


class ServeCommand(TyperCommand):
    """`pagoda serve`, which also knows vLLM's words."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not ctx.resilient_parsing:
            try:
                args = list(in_our_words(args, say=lambda line: typer.echo(line, err=True)))
            except CommandError as error:
                fail(str(error))
        return super().parse_args(ctx, args)


def in_our_words(arguments: Sequence[str], say: Callable[[str], None]) -> Iterator[str]:
    """Replace vLLM's flags. Raises CommandError for one that cannot be replaced."""
    rest = iter(arguments)
    for argument in rest:
        name, has_value, value = argument.partition("=")
        name = name.replace("_", "-") if name.startswith("--") else name
        flag = FLAGS.get(name)
        if argument == "--":
            yield from (argument, *rest)
        elif flag is None:
            yield f"{name}{has_value}{value}"
        else:
            if not has_value and not flag.is_switch:
                value = next(rest, "")
            words = flag.words(name, value)
            if not words:
                say(f"{argument if flag.is_switch or has_value else f'{name} {value}'} changes nothing here.")
            yield from words
