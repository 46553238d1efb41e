"""The Jinja environment for chat templates: what transformers offers to them, and nothing that reaches the process.

A template comes with a model, or with a request, and is code of a stranger: it changes nothing that it is given, and what
it may use is limited (template_limits.py): no single operation makes a value larger than a rendering may be, and all of
them together stay within a budget. Knows nothing about messages or tokens.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import AbstractContextManager
from datetime import datetime
from functools import wraps
from typing import Any, NoReturn, cast

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from gateway.template_limits import FILTERS, Budget, charge, charge_value, charged, limited

MAX_POWER = 1 << 10
MAX_NUMBER_BITS = 1 << 12
MAX_WIDTH = 1 << 10
"""To which a text is padded or indented."""
MAX_CPU_S = 5.0
TOTAL_CHARACTERS = 16
"""How many times the length of the longest rendering all values together may have."""
WIDE_FIELD = re.compile(r"\d{4}|\*|\{[^}]*\{")
"""In a format: a width of four digits, or one that comes from elsewhere."""
PADDING = frozenset(("center", "ljust", "rjust", "zfill", "expandtabs"))
JINJAS_OWN = (jinja2.Environment, jinja2.runtime.Context, nodes.EvalContext)
NEEDLESS_FILTERS = ("center", "filesizeformat", "pprint", "random", "urlize", "wordwrap", "xmlattr")
"""No chat template needs them, and several make much of little."""


class TemplateSandbox(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(self, *, max_characters: int, max_cpu_s: float = MAX_CPU_S) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _GenerationTag])
        self._max_characters = max_characters
        self._max_cpu_s = max_cpu_s
        for name in NEEDLESS_FILTERS:
            del self.filters[name]
        self.filters["tojson"] = _to_json
        self.filters |= {name: self._charged_filter(name, function) for name, function in self.filters.items()}
        self.filters |= FILTERS
        del self.globals["lipsum"]  # filler text of any length
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = _strftime_now

    def limited_template(self, source: str) -> jinja2.Template:
        """To be rendered inside `limits`."""
        code = self.compile(charged(self.parse(source)))
        return jinja2.Template.from_code(self, code, self.make_globals(None))

    def limits(self) -> AbstractContextManager[None]:
        """One rendering's: within, the templates of `limited_template` raise SecurityError where they go too far."""
        return limited(Budget(max_cpu_s=self._max_cpu_s, max_characters=TOTAL_CHARACTERS * self._max_characters))

    def call_binop(self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" and not (abs(left) <= MAX_POWER and abs(right) <= MAX_POWER):
            raise SecurityError("the power of two large numbers")
        if operator == "*":
            self._allow(_length(left) * _amount(right) + _length(right) * _amount(left))
            if _bits(left) + _bits(right) > MAX_NUMBER_BITS:
                raise SecurityError("the product of two large numbers")
        if operator == "+":
            self._allow(_length(left) + _length(right))
        if operator == "%" and isinstance(left, str):
            self._check_format(left, right if isinstance(right, tuple) else (right,))
        return super().call_binop(context, operator, left, right)

    def call(self, context: jinja2.runtime.Context, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        charge(1)
        method = getattr(function, "__wrapped__", function)  # Jinja wraps a text's `format`
        name, text = getattr(method, "__name__", ""), getattr(method, "__self__", None)
        if isinstance(text, (str, bytes)):
            self._check_method(name, text, args, kwargs)
        return charge_value(super().call(context, function, *args, **kwargs))

    def _charged_filter(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)  # keeps what Jinja marks the function with: whether it wants one of its own objects first
        def charging(*args: Any, **kwargs: Any) -> Any:
            own = [arg for arg in args if isinstance(arg, JINJAS_OWN)]
            values = list(args[len(own) :])
            if values and isinstance(values[0], Iterator):
                values[0] = list(values[0])  # so that its length can be seen
            charge(1)
            self._check_filter(name, values, kwargs)
            return charge_value(function(*own, *values, **kwargs))

        return charging

    def _check_method(self, name: str, text: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        if name in PADDING:
            _check_widths([*args, *kwargs.values()])
        elif name in ("replace", "join"):
            self._check_filter(name, [text, *args] if name == "replace" else [*args, text], kwargs)
        elif name in ("format", "format_map"):
            self._check_format(str(text), [*args, *kwargs.values()])
        elif name == "translate":
            raise SecurityError("the method 'translate' of a text")

    def _check_filter(self, name: str, values: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Those whose result can be much longer than what they are given."""
        if name in ("indent", "tojson", "batch", "slice"):
            _check_widths([*values[1:], *kwargs.values()])
        elif name == "replace" and len(values) >= 3:
            old, new = str(values[1]), str(values[2])
            self._allow(len(str(values[0])) + str(values[0]).count(old) * len(new))
        elif name == "format" and values:
            self._check_format(str(values[0]), [*values[1:], *kwargs.values()])
        elif name == "join" and values:
            separator = str(values[1] if len(values) > 1 else kwargs.get("d", ""))
            texts = values[0] if isinstance(values[0], Sized) else ()
            total = len(texts) if isinstance(texts, str) else sum(map(_length, cast(Iterable[Any], texts)))
            self._allow(total + len(separator) * len(texts))

    def _check_format(self, layout: str, values: Sequence[Any]) -> None:
        if WIDE_FIELD.search(layout):
            raise SecurityError(f"a width of more than {MAX_WIDTH} characters")
        longest = max((len(str(value)) for value in values), default=0) + MAX_WIDTH
        self._allow(len(layout) + (layout.count("%") + layout.count("{")) * longest)

    def _allow(self, num_characters: int) -> None:
        if num_characters > self._max_characters:
            raise SecurityError("a text without end")
        charge(num_characters)


class _GenerationTag(Extension):
    """`{% generation %}` marks an assistant's text for training; here its content counts, not the mark."""

    tags = {"generation"}  # noqa: RUF012  # the base class declares it like this

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _check_widths(values: Iterable[Any]) -> None:
    if any(isinstance(value, int) and value > MAX_WIDTH for value in values):
        raise SecurityError(f"a width of more than {MAX_WIDTH} characters")


def _bits(value: Any) -> int:
    return value.bit_length() if isinstance(value, int) else 0


def _length(value: Any) -> int:
    return len(value) if isinstance(value, (str, bytes, list, tuple)) else 0


def _amount(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own escapes for HTML, which a prompt is not."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(layout: str) -> str:
    return datetime.now().strftime(layout)
