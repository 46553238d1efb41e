"""The banner of `pagoda serve`: what runs, at which addresses, and a command to try it."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pagoda.cli.tiers import ServeOptions
from pagoda.models.catalogue import CatalogueEntry
from pagoda.models.chat_template_choice import choose_chat_template
from pagoda.models.errors import ChatTemplateChoiceError
from pagoda.models.model import Model
from pagoda.models.stored_settings import read_settings
from pagoda.process.memory import size

if TYPE_CHECKING:
    from pagoda.wire.load import SchedulerLoad, WorkerLoad


def banner(
    options: ServeOptions,
    models: Sequence[Model],
    load: "SchedulerLoad",
    addresses: Sequence[str],
    better: CatalogueEntry | None = None,
) -> str:
    """Return the banner. `addresses` are all addresses of the gateway, including Ollama's default port if it was free.

    `better` is a model to suggest to a user who has named none.
    """
    facts = [
        *[("model", _model(model)) for model in models],
        *[(f"worker {index}", _worker(worker)) for index, worker in enumerate(load.workers)],
        ("OpenAI", f"{options.url}/v1"),
        ("Anthropic", options.url),
        ("Ollama", _ollama(options, addresses)),
        ("gRPC", options.scheduler_address),
        ("logs", f"{options.log_directory}/*.log"),
    ]
    lines = [f"  {name:<9} {value}" for name, value in facts]
    return "\n".join(
        [
            "",
            "Pagoda is ready.",
            "",
            *lines,
            "",
            "Try it:",
            f"  {_curl(options, models[0])}",
            "",
            *_suggestion(better),
            "Press Ctrl-C to stop.",
        ]
    )


def _suggestion(better: CatalogueEntry | None) -> list[str]:
    if better is None:
        return []
    return [f"For better answers: pagoda serve {better.name} ({size(better.size_bytes)} download)", ""]


def _model(model: Model) -> str:
    return f"{model.name} ({model.quantization}, {size(model.size_bytes)}, {model.config.architecture})"


def _ollama(options: ServeOptions, addresses: Sequence[str]) -> str:
    others = [address for address in addresses if not address.endswith(f":{options.port}")]
    return ", ".join([options.url, *others])


def _worker(worker: "WorkerLoad") -> str:
    memory = f"KV memory: {size(worker.kv_bytes)} for {worker.num_pages * worker.page_size:,} tokens"
    taken = ", taken as used" if worker.device.startswith("cpu") else ""
    return f"{worker.device}, numerics {worker.numerics_id}, {memory}{taken}"


def _curl(options: ServeOptions, model: Model) -> str:
    endpoint, question = _question(model)
    body = {"model": model.name} | question
    needs_key = options.api_key or options.keys or options.keys_path.exists()
    key = ' -H "Authorization: Bearer $PAGODA_API_KEY"' if needs_key else ""
    return f"curl {options.url}{endpoint} -H 'Content-Type: application/json'{key} -d '{json.dumps(body)}'"


def _question(model: Model) -> tuple[str, dict[str, Any]]:
    """Return an endpoint and a body that the model can answer: a base model has no chat template."""
    if _can_chat(model):
        return "/v1/chat/completions", {"messages": [{"role": "user", "content": "What is a pagoda?"}]}
    return "/v1/completions", {"prompt": "A pagoda is"}


def _can_chat(model: Model) -> bool:
    try:
        return choose_chat_template(model, read_settings(model)).text is not None
    except ChatTemplateChoiceError:
        return False
