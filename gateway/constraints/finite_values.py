"""A check of whether a JSON Schema has a finite value, or requires itself without end."""

from collections.abc import Iterable, Mapping
from typing import Any

from gateway.constraints.schema_walk import resolved_reference

_Statement = int
"""The index of a statement: "this schema has a finite value"."""
_TRUE: _Statement = 0


def can_end(schema: Any) -> bool:
    """Return False if each value of the schema would contain another one of it, without end."""
    return _Statements(schema).hold_for_root()


class _Statements:
    """Statements about the schema and its parts. Each follows from a number of others.

    What follows from nothing but itself does not hold. Each statement is settled once, so the time is linear in the size of the
    schema, whatever refers to what.
    """

    def __init__(self, root: Any) -> None:
        self._root = root
        self._num_missing = [0]
        self._needed_by: list[list[_Statement]] = [[]]
        self._of_schemas: dict[int, _Statement] = {}
        self._of_references: dict[str, _Statement] = {}
        self._new_references: list[str] = []

    def hold_for_root(self) -> bool:
        root = self._of(self._root)
        while self._new_references:
            reference = self._new_references.pop()
            target = resolved_reference(self._root, reference)
            # llguidance refuses what leads nowhere.
            self._needed_by[_TRUE if target is None else self._of(target)].append(self._of_references[reference])
        self._settle()
        return self._num_missing[root] <= 0

    def _settle(self) -> None:
        settled = [index for index, missing in enumerate(self._num_missing) if missing == 0]
        while settled:
            for statement in self._needed_by[settled.pop()]:
                self._num_missing[statement] -= 1
                if self._num_missing[statement] == 0:
                    settled.append(statement)

    def _new(self, num_missing: int) -> _Statement:
        self._num_missing.append(num_missing)
        self._needed_by.append([])
        return len(self._num_missing) - 1

    def _all(self, statements: Iterable[_Statement]) -> _Statement:
        needed = {each for each in statements if each != _TRUE}
        return self._joined(needed, len(needed)) if needed else _TRUE

    def _any(self, statements: Iterable[_Statement]) -> _Statement:
        options = set(statements)
        return _TRUE if _TRUE in options else self._joined(options, 1)

    def _joined(self, statements: Iterable[_Statement], num_missing: int) -> _Statement:
        joined = self._new(num_missing)
        for each in statements:
            self._needed_by[each].append(joined)
        return joined

    def _of(self, schema: Any) -> _Statement:
        if not isinstance(schema, Mapping) or "const" in schema or "enum" in schema:
            return _TRUE
        if id(schema) not in self._of_schemas:
            self._of_schemas[id(schema)] = self._all(self._conditions(schema))
        return self._of_schemas[id(schema)]

    def _conditions(self, schema: Mapping[str, Any]) -> Iterable[_Statement]:
        if isinstance(reference := schema.get("$ref"), str):
            if reference not in self._of_references:
                self._of_references[reference] = self._new(1)
                self._new_references.append(reference)
            yield self._of_references[reference]
        for key in ("anyOf", "oneOf"):
            if isinstance(branches := schema.get(key), list) and branches:
                yield self._any(map(self._of, branches))
        if isinstance(parts := schema.get("allOf"), list):
            yield from map(self._of, parts)
        kinds = schema.get("type")
        kinds = {kinds} if isinstance(kinds, str) else set(map(str, kinds)) if isinstance(kinds, list) else set()
        if kinds and kinds <= {"object", "array"}:
            yield self._any(
                self._all(map(self._of, _required_values(schema) if kind == "object" else _required_items(schema)))
                for kind in kinds
            )


def _required_values(schema: Mapping[str, Any]) -> Iterable[Any]:
    """Return the schemas of the properties that an object must have."""
    properties, required = schema.get("properties"), schema.get("required")
    if not isinstance(properties, Mapping) or not isinstance(required, list):
        return []
    return [properties[name] for name in required if isinstance(name, str) and name in properties]


def _required_items(schema: Mapping[str, Any]) -> Iterable[Any]:
    """Return the schemas of the items that an array must have."""
    minimum, prefix = schema.get("minItems", 0), schema.get("prefixItems")
    if not isinstance(minimum, int | float) or minimum <= 0:
        return []
    first = [each for index, each in enumerate(prefix) if index < minimum] if isinstance(prefix, list) else []
    return [*first, schema.get("items", True)] if len(first) < minimum else first
