"""All types of wire data, found by looking into pagoda/wire."""

import importlib
import pkgutil
from dataclasses import fields, is_dataclass
from typing import Any

import pagoda.wire


def wire_types() -> list[type[Any]]:
    modules = [
        importlib.import_module(f"pagoda.wire.{each.name}") for each in pkgutil.iter_modules(pagoda.wire.__path__)
    ]
    return [
        kind
        for module in modules
        for kind in vars(module).values()
        if isinstance(kind, type) and kind.__module__ == module.__name__ and field_names(kind)
    ]


def field_names(kind: type[Any]) -> tuple[str, ...]:
    """Return the names of a dataclass's or named tuple's fields; none for another class."""
    return tuple(field.name for field in fields(kind)) if is_dataclass(kind) else getattr(kind, "_fields", ())
