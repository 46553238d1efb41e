"""What one rendering of a template may use: processor time, and characters in all the values it makes.

A template can loop within loops, call itself and double a text again and again. So every turn of a loop, call, filter,
operation and piece of output is charged to the rendering's budget. Where Jinja offers no place to do that, `charged`
rewrites the template's syntax tree. Knows nothing about chats.
"""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.visitor import NodeTransformer

CHARGE, COUNT_TURNS, JOIN = "_charge", "_count_turns", "_join"
"""Filters that only the rewritten tree can name: a template's own names are checked before."""


class Budget:
    def __init__(self, *, max_cpu_s: float, max_characters: int) -> None:
        self._deadline_s = time.thread_time() + max_cpu_s
        self._characters_left = max_characters

    def charge(self, num_characters: int) -> None:
        self._characters_left -= num_characters
        if self._characters_left < 0:
            raise SecurityError("it makes too much text")
        if time.thread_time() > self._deadline_s:
            raise SecurityError("it takes too long")


_budget: ContextVar[Budget | None] = ContextVar("template_budget", default=None)


@contextmanager
def limited(budget: Budget) -> Iterator[None]:
    """What this thread renders inside is charged to the budget."""
    token = _budget.set(budget)
    try:
        yield
    finally:
        _budget.reset(token)


def charge(num_characters: int) -> None:
    """Free outside a rendering: the compiler evaluates constants."""
    if (budget := _budget.get()) is not None:
        budget.charge(num_characters)


def charge_value(value: Any) -> Any:
    charge(size(value))
    return value


def size(value: Any) -> int:
    return len(value) if isinstance(value, (str, bytes, list, tuple, dict)) else 1


@jinja2.pass_context  # so that the compiler does not evaluate it
def _charge_filter(context: jinja2.runtime.Context, value: Any) -> Any:
    return charge_value(value)


@jinja2.pass_context
def _count_turns_filter(context: jinja2.runtime.Context, items: Iterable[Any]) -> Iterator[Any]:
    for item in items:
        charge(1)
        yield item


@jinja2.pass_context
def _join_filter(context: jinja2.runtime.Context, parts: list[Any]) -> str:
    texts = [str(part) for part in parts]
    charge(sum(map(len, texts)))
    return "".join(texts)


FILTERS = {CHARGE: _charge_filter, COUNT_TURNS: _count_turns_filter, JOIN: _join_filter}


def charged(tree: nodes.Template) -> nodes.Template:
    """The same template, in which loops, joined texts, slices and output are charged."""
    if any(node.name in FILTERS for node in tree.find_all(nodes.Filter)):
        raise jinja2.TemplateSyntaxError("a filter's name may not begin with an underscore", lineno=1)
    rewritten: nodes.Template = _Charging().visit(tree)
    return rewritten


class _Charging(NodeTransformer):
    def visit_For(self, node: nodes.For) -> nodes.For:
        self.generic_visit(node)
        node.iter = _filtered(node.iter, COUNT_TURNS)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:
        self.generic_visit(node)
        return _filtered(nodes.List(node.nodes, lineno=node.lineno), JOIN)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Expr:
        self.generic_visit(node)
        return _filtered(node, CHARGE) if isinstance(node.arg, nodes.Slice) else node

    def visit_Output(self, node: nodes.Output) -> nodes.Output:
        self.generic_visit(node)
        node.nodes = [_filtered(_expression(part), CHARGE) for part in node.nodes]
        return node


def _expression(part: nodes.Expr) -> nodes.Expr:
    return nodes.Const(part.data, lineno=part.lineno) if isinstance(part, nodes.TemplateData) else part


def _filtered(node: nodes.Node, name: str) -> nodes.Filter:
    assert isinstance(node, nodes.Expr)
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)
