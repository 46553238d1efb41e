"""Tests of the check of a client's variables for a chat template."""

from typing import Any

import pytest

from gateway.chat.template_variables import (
    MAX_VARIABLE_BYTES,
    MAX_VARIABLES,
    asked_thinking,
    check_template_variables,
    without_thinking,
)


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({f"a{number}": 1 for number in range(MAX_VARIABLES + 1)}, "at most 64 variables"),
        ({"a": "x" * MAX_VARIABLE_BYTES}, "bytes of JSON"),
        ({"a": nested(300)}, "nested too deeply"),
        ({"a": 2**70}, "more than 64 bits"),
        ({"_a": 1}, "a name must have"),
        ({"a-b": 1}, "a name must have"),
        ({"": 1}, "a name must have"),
        ({"messages": []}, "'messages' is set by the server"),
        ({"xml_tools": []}, "'xml_tools' is set by the server"),
        ({"enable_thinking": "yes"}, "must be true or false"),
        ({"thinking": True, "enable_thinking": False}, "must not differ"),
    ],
)
def test_wrong_variables_are_refused(variables: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_template_variables(variables)


def test_variables_are_parted_from_thinking() -> None:
    variables = check_template_variables({"thinking": False, "enable_thinking": None, "mood": {"a": [1, None]}})
    assert asked_thinking(variables) is False
    assert without_thinking(variables) == {"mood": {"a": [1, None]}}
    assert asked_thinking({}) is None
