"""The check of `pagoda serve` that this machine has enough memory for its models, before anything is started."""

from collections.abc import Sequence

from pydantic import ByteSize, TypeAdapter, ValidationError

from pagoda.cli.failure import CommandError
from pagoda.cli.tiers import ServeOptions
from pagoda.models.memory_need import add_tiers, describe_lack, memory_need, sum_needs
from pagoda.models.model import Model
from pagoda.process.memory import AvailableMemory

STARTS_ANYWAY = " To start anyway, add --no-check-memory."


def check_memory(options: ServeOptions, models: Sequence[Model], available: AvailableMemory) -> None:
    """Raise CommandError if the workers cannot load their first models. Only a worker can measure a GPU's memory."""
    if not options.check_memory or (options.device or "cpu") != "cpu":
        return
    loaded = [models[number % len(models)] for number in range(options.num_workers)]
    kv_memory = _num_bytes(options.kv_memory)
    needs = [
        memory_need(model, numerics=options.numerics, kv_memory=kv_memory, max_model_len=options.max_model_len)
        for model in loaded
    ]
    total = add_tiers(sum_needs(needs))
    if total.fits(available):
        return
    if len(loaded) == 1:
        raise CommandError(describe_lack(loaded[0].name, total, available) + STARTS_ANYWAY)
    raise CommandError(
        f"{len(loaded)} workers need {total.describe()}, but {available.describe()}. Start fewer with --workers, or name "
        f"fewer models; each worker loads others when they are requested.{STARTS_ANYWAY}"
    )


def _num_bytes(text: str | None) -> int | None:
    """Return a size in bytes. None if it is malformed, which the worker reports."""
    try:
        return None if text is None else TypeAdapter(ByteSize).validate_python(text)
    except ValidationError:
        return None
