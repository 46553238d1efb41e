"""Takes typed values out of a model's metadata, whose writers may have left anything in it.

Which keys there are is said in gguf_config.py and hf_config.py.
"""

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pagoda.models.errors import ModelFormatError
from pagoda.models.model import RopeScaling

MAX_COUNT = 1 << 31
MAX_LAYERS = 1 << 12
"""Ten times what any model has: what is allocated per layer before a weight is read stays small."""
MAX_POSITION = 1 << 20
"""As far as the rotation's angles are exact; a longer context is cut to this."""
Item = TypeVar("Item")


def count(values: Mapping[str, Any], key: str, default: int | None = None) -> int:
    """A positive whole number."""
    value = values.get(key)
    value = default if value is None else value
    if value is None:
        raise ModelFormatError(f"the model's metadata lacks {key!r}")
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < MAX_COUNT:
        raise ModelFormatError(f"the model's metadata has {key!r} = {value!r}, which is not a positive whole number")
    return value


def number(values: Mapping[str, Any], key: str, default: float | None = None) -> float:
    """A positive finite number."""
    value = values.get(key)
    value = default if value is None else value
    if value is None:
        raise ModelFormatError(f"the model's metadata lacks {key!r}")
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < float("inf"):
        raise ModelFormatError(f"the model's metadata has {key!r} = {value!r}, which is not a positive number")
    return float(value)


def optional_number(values: Mapping[str, Any], key: str) -> float | None:
    """As `number`; None where the value is absent, null or 0, which all mean "not used" where this is asked."""
    return number(values, key) if values.get(key) else None


def optional_count(values: Mapping[str, Any], key: str) -> int | None:
    return count(values, key) if values.get(key) else None


def uniform_count(values: Mapping[str, Any], key: str, default: int | None = None) -> int:
    """As `count`, also of a list with one number for each layer, which must all be the same."""
    value = values.get(key)
    if isinstance(value, list) and value:
        if any(item != value[0] for item in value):
            raise ModelFormatError(
                f"the model needs {key} by layer ({value[:8]}…); only one value for all is supported"
            )
        return count({key: value[0]}, key)
    return count(values, key, default)


def num_layers(values: Mapping[str, Any], key: str) -> int:
    layers = count(values, key)
    if layers > MAX_LAYERS:
        raise ModelFormatError(f"the model's metadata has {key!r} = {layers}; at most {MAX_LAYERS} layers are possible")
    return layers


def window(size: int | None, max_position: int | None, is_windowed: Iterable[bool]) -> dict[str, Any]:
    """ModelConfig's two fields; a window as long as the context is none, unless `max_position` is None."""
    layers = tuple(is_windowed)
    if size is None or not any(layers) or (max_position is not None and size >= max_position):
        return {}
    return {"sliding_window": size, "layer_uses_sliding_window": layers}


def items(values: Mapping[str, Any], key: str, kind: type[Item]) -> list[Item]:
    """A list of one kind; empty if absent."""
    value = values.get(key, [])
    if not isinstance(value, list) or not all(isinstance(item, kind) for item in value):
        raise ModelFormatError(f"the model's metadata has a {key!r} that is not a list of {kind.__name__}")
    return value


def require(values: Mapping[str, Any], key: str, expected: Any, *, unused: Any = None) -> None:
    """Raise ModelFormatError unless a setting has the one value that is implemented, is absent, or is `unused`."""
    value = values.get(key)
    if value is not None and value not in (expected, unused):
        raise ModelFormatError(f"the model needs {key} = {value!r}; only {expected!r} is supported")


def rope_scaling(values: Mapping[str, Any], rope_type: str, max_position: int) -> RopeScaling | None:
    """From Hugging Face's keys. `max_position` is the original one of a file that does not name it."""
    match rope_type:
        case "default" | "none":
            return None
        case "linear":
            factor = number(values, "factor")
            return None if factor == 1.0 else RopeScaling(rope_type="linear", factor=factor)
        case "llama3":
            return RopeScaling(
                rope_type="llama3",
                factor=number(values, "factor"),
                low_freq_factor=number(values, "low_freq_factor"),
                high_freq_factor=number(values, "high_freq_factor"),
                original_max_position=count(values, "original_max_position_embeddings", max_position),
            )
    raise ModelFormatError(f"the rope scaling {rope_type!r} is not supported (known: default, linear, llama3)")
