"""vLLM's flags on `pagoda serve`.

A flag with an equivalent is replaced by it. A flag that has no effect here is dropped with a note. Any other is an error that says
what to use instead. As with vLLM, underscores in flags are read as hyphens.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import typer
from typer.core import TyperCommand

from pagoda.cli.failure import CommandError, fail
from pagoda.models.errors import ModelError
from pagoda.models.names import HubName, is_path, parse_name

Tokens = tuple[str, ...]
_NONE: Tokens = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Flag:
    """One flag of vLLM. Only the values in `values` are accepted, unless `becomes` or `any_value` is set."""

    becomes: Callable[[str], Tokens] | None = None
    """Function that translates any value into arguments of `pagoda serve`."""
    values: Mapping[str, Tokens] = field(default_factory=lambda: MappingProxyType({}))
    """Arguments of `pagoda serve` for each accepted value. Empty if the value has no effect here."""
    any_value: bool = False
    """True if the flag has no effect here with any value."""
    is_switch: bool = False
    """True if the flag takes no value."""
    instead: str = ""
    """Advice for the error message: what to do instead."""

    def words(self, name: str, value: str) -> Tokens:
        """Return the arguments of `pagoda serve` that replace the flag. Raises CommandError if there is no equivalent."""
        if self.becomes is not None:
            return self.becomes(value)
        if self.any_value:
            return _NONE
        if value in self.values:
            return self.values[value]
        written = name if self.is_switch else f"{name} {value}"
        known = ", ".join(each for each in self.values if each)
        allowed = f" (allowed: {known})" if known else ""
        raise CommandError(f"{written} is not supported{allowed}; {self.instead or 'omit it'}")


def _renamed(ours: str) -> _Flag:
    return _Flag(becomes=lambda value: (f"{ours}={value}",))


def _neutral(*values: str, instead: str = "") -> _Flag:
    return _Flag(values=dict.fromkeys(values, _NONE), instead=instead)


def _switch_off(instead: str) -> _Flag:
    return _Flag(is_switch=True, instead=instead)


def _length(value: str) -> Tokens:
    """Translate vLLM's notation: 8k is 8000, 8K is 8192, `auto` and -1 are the model's own length."""
    if value in ("auto", "-1"):
        return _NONE
    factor = {"k": 1000, "K": 1024}.get(value[-1:], 1)
    try:
        number = float(value[:-1] if factor > 1 else value) * factor
    except ValueError:
        return (f"--max-model-len={value}",)
    return (f"--max-model-len={int(number) if number == number // 1 else value}",)


def _origins(value: str) -> Tokens:
    """Translate vLLM's JSON list into a comma-separated one."""
    try:
        listed = json.loads(value)
    except ValueError:
        listed = value
    return (f"--allowed-origins={','.join(listed) if isinstance(listed, list) else listed}",)


def _structured_outputs(value: str) -> Tokens:
    """Accept vLLM's configuration if it only chooses a backend or a parser, which no answer depends on here."""
    try:
        named = json.loads(value)
    except ValueError:
        named = None
    if not isinstance(named, dict):
        raise CommandError(f"--structured-outputs-config must be a JSON object (got {value!r})")
    if others := sorted(named.keys() - {"backend", "disable_fallback", "reasoning_parser"}):
        raise CommandError(f"--structured-outputs-config: {others[0]} is not supported; set it in each request")
    return _NONE


_CHANGES_NOTHING = _Flag(is_switch=True, values={"": _NONE})
_ANYTHING = _Flag(any_value=True)
_GROUPS = "a model cannot be split over devices yet; --workers N starts N workers, each with the whole model"
_ADAPTERS = "adapters are not supported yet; omit it"
_PROXY = "put a reverse proxy in front"
_FORMATS = "the model's files name the format; a new format is a file: docs/output-formats.md"

FLAGS: Mapping[str, _Flag] = MappingProxyType(
    {
        # Flags with an equivalent.
        "--allowed-origins": _Flag(becomes=_origins),
        "--data-parallel-size": _renamed("--workers"),
        "-dp": _renamed("--workers"),
        "--generation-config": _Flag(
            values={"auto": ("--sampling-defaults=model",), "vllm": ("--sampling-defaults=neutral",)},
            instead="the model's own file is used; PARAMETER in a Modelfile takes precedence over it",
        ),
        "--kv-cache-dtype": _Flag(
            values={"auto": _NONE, "int8": ("--kv-dtype=int8",), "int16": ("--kv-dtype=int16",)},
            instead="use --kv-dtype int8 or int16",
        ),
        "--max-model-len": _Flag(becomes=_length),
        "--max-num-batched-tokens": _renamed("--max-step-tokens"),
        "--max-num-seqs": _renamed("--max-step-sequences"),
        # Features that are configured in another way.
        "--default-chat-template-kwargs": _Flag(
            instead="set `chat_template_kwargs` in each request, or use --chat-template FILE"
        ),
        "--enable-force-include-usage": _switch_off("set `stream_options` in each request"),
        "--logits-processors": _Flag(
            instead="use the fields of a request, such as `structured_outputs` or `bad_words`"
        ),
        "--reasoning-parser-plugin": _Flag(instead=_FORMATS),
        "--return-tokens-as-token-ids": _switch_off("set `return_tokens_as_token_ids` in each request"),
        "--tool-parser-plugin": _Flag(instead=_FORMATS),
        "--tool-server": _Flag(instead="clients run the tools; omit it"),
        "--config": _Flag(instead="use the options themselves, or their environment variables"),
        "--gpu-memory-utilization": _Flag(instead="set the size of the KV cache: --kv-memory SIZE, such as 4GiB"),
        "--kv-cache-memory-bytes": _renamed("--kv-memory"),
        "--override-generation-config": _Flag(
            instead="write PARAMETER lines into a Modelfile, then: pagoda create NAME"
        ),
        "--root-path": _Flag(instead="let the reverse proxy remove the prefix"),
        "--served-model-name": _Flag(instead="copy the model to the new name: pagoda cp MODEL NAME"),
        "--ssl-certfile": _Flag(instead=_PROXY),
        "--ssl-keyfile": _Flag(instead=_PROXY),
        "--tokenizer": _Flag(instead="the one in the model's files is used; omit it"),
        "--uds": _Flag(instead="use --host and --port"),
        # Features that do not exist yet.
        "--chat-template-content-format": _neutral("auto", "string"),
        "--decode-context-parallel-size": _neutral("1", instead=_GROUPS),
        "--enable-expert-parallel": _switch_off(_GROUPS),
        "--enable-lora": _switch_off(_ADAPTERS),
        "--lora-modules": _Flag(instead=_ADAPTERS),
        "--pipeline-parallel-size": _neutral("1", instead=_GROUPS),
        "-pp": _neutral("1", instead=_GROUPS),
        "--speculative-config": _Flag(instead="speculative decoding is not supported yet; omit it"),
        "--tensor-parallel-size": _neutral("1", instead=_GROUPS),
        "-tp": _neutral("1", instead=_GROUPS),
        # Behaviour that is always on, or settings that change no answer. Formats of calls are found in the model's files.
        "--enable-auto-tool-choice": _CHANGES_NOTHING,
        "--enable-reasoning": _CHANGES_NOTHING,
        "--exclude-tools-when-tool-choice-none": _CHANGES_NOTHING,
        "--guided-decoding-backend": _ANYTHING,
        "--reasoning-config": _ANYTHING,
        "--reasoning-parser": _ANYTHING,
        "--response-role": _neutral("assistant"),
        "--structured-outputs-config": _Flag(becomes=_structured_outputs),
        "--structured-outputs-config.backend": _ANYTHING,
        "--structured-outputs-config.reasoning-parser": _ANYTHING,
        "--tool-call-parser": _ANYTHING,
        "--block-size": _neutral("16", instead="pages have 16 tokens; omit it"),
        "--code-revision": _ANYTHING,
        "--cpu-offload-gb": _neutral("0", instead="weights are not offloaded; omit it"),
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
        "--load-format": _neutral(
            "auto", "gguf", "safetensors", instead="the format is detected from the file; omit it"
        ),
        "--max-log-len": _ANYTHING,
        "--no-enable-log-requests": _CHANGES_NOTHING,
        "--no-enable-prefix-caching": _switch_off(
            "prefixes are always cached; requests with different cache_salt values share none"
        ),
        "--quantization": _neutral("gguf", "None", instead="the format is detected from the file; omit it"),
        "-q": _neutral("gguf", "None", instead="the format is detected from the file; omit it"),
        "--runner": _neutral("auto", "generate", instead="this server generates text"),
        "--scheduling-policy": _neutral("priority", "fcfs"),
        "--seed": _neutral("0", "None", instead="set `seed` in each request"),
        "--swap-space": _ANYTHING,
        "--task": _neutral("auto", "generate", instead="this server generates text"),
        "--tokenizer-mode": _neutral("auto"),
        "--trust-remote-code": _CHANGES_NOTHING,
        "--uvicorn-log-level": _ANYTHING,
    }
)


class ServeCommand(TyperCommand):
    """The command `pagoda serve`, which also accepts vLLM's flags."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not ctx.resilient_parsing:
            try:
                args = list(in_our_words(args, say=lambda line: typer.echo(line, err=True)))
            except CommandError as error:
                fail(str(error))
        return super().parse_args(ctx, args)


def at_revision(names: Sequence[str], revision: str) -> tuple[str, ...]:
    """Return the names of models of the hub at the revision. Exit with a sentence for any other model."""
    try:
        return tuple(_at_revision(name, revision) for name in names)
    except (CommandError, ModelError) as error:
        fail(str(error))


def _at_revision(name: str, revision: str) -> str:
    place = None if is_path(name) else parse_name(name)
    if not isinstance(place, HubName) or place.revision:
        raise CommandError(f"--revision needs a model of the hub without a revision, such as ORG/REPO (got {name!r})")
    return str(replace(place, revision=revision))


def use_hub(token: str | None, cache: Path | None) -> None:
    """Set the token and the cache of the hub for this process and those that it starts."""
    if token:
        os.environ["HF_TOKEN"] = token
    if cache:
        os.environ["HF_HUB_CACHE"] = str(cache.expanduser().absolute())


def in_our_words(arguments: Sequence[str], say: Callable[[str], None]) -> Iterator[str]:
    """Yield the arguments with vLLM's flags replaced. Raises CommandError for a flag without an equivalent."""
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
                say(f"{argument if flag.is_switch or has_value else f'{name} {value}'} has no effect; ignored.")
            yield from words
