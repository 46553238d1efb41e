"""Reads typed values from a model's metadata and validates them, because files may contain anything.

gguf_config.py and hf_config.py define the keys.
"""

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pagoda.models.errors import ModelFormatError

MAX_COUNT = 1 << 31
SMALLEST_NUMBER, LARGEST_NUMBER = 1e-30, 1e30
"""Range of numbers that are not counts. What is computed from them stays finite, and no model comes near its ends."""
MAX_LAYERS = 1 << 12
"""Largest number of layers, ten times that of any model. It bounds what is allocated per layer before weights are read."""
MAX_POSITION = 1 << 20
"""Longest context for which the angles of the rotation are exact. A longer one is cut to this."""
Item = TypeVar("Item")


def count(values: Mapping[str, Any], key: str, default: int | None = None) -> int:
    """Return a positive whole number below MAX_COUNT. Raises ModelFormatError."""
    value = values.get(key)
    value = default if value is None else value
    if value is None:
        raise ModelFormatError(f"the model's metadata lacks {key!r}")
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < MAX_COUNT:
        raise ModelFormatError(
            f"{key!r} in the model's metadata must be a positive whole number below {MAX_COUNT} (got {value!r})"
        )
    return value


def number(values: Mapping[str, Any], key: str, default: float | None = None) -> float:
    """Return a positive number in the range above. Raises ModelFormatError."""
    value = values.get(key)
    value = default if value is None else value
    if value is None:
        raise ModelFormatError(f"the model's metadata lacks {key!r}")
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not SMALLEST_NUMBER <= value <= LARGEST_NUMBER:
        raise ModelFormatError(
            f"{key!r} in the model's metadata must be a positive number, from {SMALLEST_NUMBER:g} to {LARGEST_NUMBER:g} "
            f"(got {value!r})"
        )
    return float(value)


def optional_number(values: Mapping[str, Any], key: str) -> float | None:
    """Return `number`, or None if the value is absent, null or 0, which all mean "not used" for these keys."""
    return number(values, key) if values.get(key) else None


def flag(values: Mapping[str, Any], key: str, default: bool = False) -> bool:
    """Return true or false, which may also be 1 or 0; `default` if absent or null. Raises ModelFormatError."""
    value = values.get(key)
    if value is None:
        return default
    if not isinstance(value, bool | int) or value not in (0, 1):
        raise ModelFormatError(f"{key!r} in the model's metadata must be true or false (got {value!r})")
    return bool(value)


def optional_count(values: Mapping[str, Any], key: str) -> int | None:
    return count(values, key) if values.get(key) else None


def uniform_count(values: Mapping[str, Any], key: str, default: int | None = None) -> int:
    """Return `count`. The value may also be a list with one number per layer, which must all be equal."""
    value = values.get(key)
    if isinstance(value, list) and value:
        if any(item != value[0] for item in value):
            raise ModelFormatError(
                f"the model requires {key} per layer ({value[:8]}…); only one value for all layers is supported"
            )
        return count({key: value[0]}, key)
    return count(values, key, default)


def num_layers(values: Mapping[str, Any], key: str) -> int:
    layers = count(values, key)
    if layers > MAX_LAYERS:
        raise ModelFormatError(f"{key!r} in the model's metadata must be at most {MAX_LAYERS} (got {layers})")
    return layers


def window(size: int | None, max_position: int | None, is_windowed: Iterable[bool]) -> dict[str, Any]:
    """Return the two fields of ModelConfig for a window. One as long as `max_position` counts as none, unless that is None."""
    layers = tuple(is_windowed)
    if size is None or not any(layers) or (max_position is not None and size >= max_position):
        return {}
    return {"sliding_window": size, "layer_uses_sliding_window": layers}


def items(values: Mapping[str, Any], key: str, kind: type[Item]) -> list[Item]:
    """Return a list of values of one type, empty if absent or null. Raises ModelFormatError."""
    value = values.get(key)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, kind) for item in value):
        raise ModelFormatError(f"{key!r} in the model's metadata must be a list of {kind.__name__}")
    return value


def require(values: Mapping[str, Any], key: str, expected: Any, *, unused: Any = None) -> None:
    """Raise ModelFormatError unless a setting is absent, `unused`, or has the only supported value."""
    value = values.get(key)
    if value is not None and value not in (expected, unused):
        raise ModelFormatError(f"the model requires {key} = {value!r}; only {expected!r} is supported")
