"""Parameters of Ollama's that change no answer here: some with any value, others with their neutral one only."""

from collections.abc import Mapping
from types import MappingProxyType

from pagoda.models.errors import ModelfileError

NEUTRAL: Mapping[str, tuple[int | float, ...]] = MappingProxyType(
    {"mirostat": (0,), "mirostat_eta": (0.1,), "mirostat_tau": (5.0, 5), "tfs_z": (1.0, 1), "typical_p": (1.0, 1)}
)
"""Not supported beyond these values."""

HINTS = frozenset(
    {
        "draft_num_predict",
        "f16_kv",
        "logits_all",
        "low_vram",
        "main_gpu",
        "num_batch",
        "num_gpu",
        # What survives a shift of the context, which never happens here.
        "num_keep",
        "num_thread",
        "numa",
        "penalize_newline",
        "use_mlock",
        "use_mmap",
        "vocab_only",
    }
)
"""About Ollama's runner: memory, threads and layers are the scheduler's business here."""

_OLD = frozenset({"num_gqa"})
"""No longer in Ollama's API, but in Modelfiles of its early days: model files say it themselves."""


def changes_nothing(name: str, value: str) -> bool:
    """Whether this parameter, as a Modelfile spells it, is one of them. Raises ModelfileError for a value that is not neutral."""
    if name not in NEUTRAL:
        return name in HINTS or name in _OLD
    if _number(value) in NEUTRAL[name]:
        return True
    raise ModelfileError(f"{name} {value} is not supported (allowed: {NEUTRAL[name][0]:g}); take it out")


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
