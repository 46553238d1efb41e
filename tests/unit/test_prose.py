"""Docstrings are main clauses, and their number does not shrink: two ratchets that each change may only tighten."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

REPOSITORY = Path(__file__).parents[2]
PRODUCT = ("gateway", "scheduler", "worker", "kvcache", "pagoda")
ALL = (*PRODUCT, "bench", "tests")

MAX_PER_MILLE_WITHOUT_MAIN_CLAUSE = 0
"""Docstrings that begin with one of `NO_MAIN_CLAUSE`, per thousand. Only lower it."""
MIN_PER_MILLE_DOCUMENTED = 570
"""Modules, classes and functions of the product that have a docstring, per thousand. Only raise it."""

_WORDS = """
    about above across after against along amid among around as at before behind below beneath beside besides between
    beyond but by despite down during except for from in inside into like near of off on onto out outside over past per
    since than through throughout till to toward towards under underneath until up upon via with within without
    although because how if that though unless what whatever when whenever where wherever whether which whichever while
    who whoever whom whose why
"""
NO_MAIN_CLAUSE = frozenset(_WORDS.split())
"""Prepositions, relative and interrogative words, and conjunctions: a docstring that begins with one is mostly a fragment."""
FIRST_WORD = re.compile(r"[\W_]*([A-Za-z]+)")

Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


class Docstring(NamedTuple):
    place: str
    text: str

    @property
    def has_no_main_clause(self) -> bool:
        word = FIRST_WORD.match(self.text)
        return word is not None and word[1].lower() in NO_MAIN_CLAUSE


def parsed(folders: tuple[str, ...]) -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(path for folder in folders for path in (REPOSITORY / folder).rglob("*.py")):
        yield str(path.relative_to(REPOSITORY)), ast.parse(path.read_text())


def docstrings(path: str, tree: ast.Module) -> Iterator[Docstring]:
    """Yield the docstrings of the module, its classes and functions, and the strings below fields and constants."""
    for node in ast.walk(tree):
        if isinstance(node, Documented) and (text := ast.get_docstring(node)):
            yield Docstring(f"{path}:{node.body[0].lineno}", text)
        if isinstance(node, ast.Module | ast.ClassDef):
            for field, below in zip(node.body, node.body[1:], strict=False):
                match field, below:
                    case ast.Assign() | ast.AnnAssign(), ast.Expr(ast.Constant(str(text))):
                        yield Docstring(f"{path}:{below.lineno}", text)


def test_docstrings_begin_with_a_main_clause() -> None:
    found = [each for path, tree in parsed(ALL) for each in docstrings(path, tree)]
    wrong = [each for each in found if each.has_no_main_clause]
    share = -(-1000 * len(wrong) // len(found))
    listed = "\n".join(f"{each.place}: {each.text.splitlines()[0]}" for each in wrong)
    assert share <= MAX_PER_MILLE_WITHOUT_MAIN_CLAUSE, f"begin these with a main clause:\n{listed}"
    assert share == MAX_PER_MILLE_WITHOUT_MAIN_CLAUSE, f"well done: lower MAX_PER_MILLE_WITHOUT_MAIN_CLAUSE to {share}"


def test_the_product_is_documented() -> None:
    nodes = [node for _, tree in parsed(PRODUCT) for node in ast.walk(tree) if isinstance(node, Documented)]
    nodes = [node for node in nodes if node.body]  # an __init__.py may be empty
    share = 1000 * sum(ast.get_docstring(node) is not None for node in nodes) // len(nodes)
    assert share >= MIN_PER_MILLE_DOCUMENTED, f"{share} of 1000 have a docstring; document what you add"


@pytest.mark.parametrize(
    ("text", "is_wrong"),
    [
        ("Return the queue.", False),
        ("A queue of sequences.", False),
        ("Information on a worker.", False),
        ("`in` what order.", True),
        ("Of one step.", True),
        ("That are in flight.", True),
        ("In place of the file.", True),
    ],
)
def test_what_begins_with_no_main_clause(text: str, is_wrong: bool) -> None:
    assert Docstring("here", text).has_no_main_clause is is_wrong
