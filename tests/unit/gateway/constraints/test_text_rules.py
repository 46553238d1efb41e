"""Tests of choices, regular expressions and grammars."""

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.constraints.choice_rule import choice_rule
from gateway.constraints.grammar_rule import grammar_rule
from gateway.constraints.regex_rule import regex_rule
from gateway.errors import InvalidRequestError
from tests.unit.gateway.constraints.matching import refused, rule_accepts


def test_choices() -> None:
    rule = choice_rule(["yes", "yes, but", 'a "quoted"\nline', "é😀", "yes"], "f")
    texts = ["yes", "yes, but", 'a "quoted"\nline', "é😀", "", "no", "yes,", "yes!", " yes"]
    assert list(refused(rule, texts)) == texts[4:]


def test_an_empty_choice_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match=r"f\.1: must not be empty"):
        choice_rule(["a", ""], "f")


@pytest.mark.parametrize(
    ("regex", "good", "bad"),
    [
        (r"\d{3}-\d{2}", "123-45", "123-4"),
        (r"^(yes|no)$", "no", "nothing"),
        (r"\Aab*\Z", "abb", "ba"),
        (r"https?://[^/\s]+/x", "http://a.b/x", "http:///x"),
        (r"a\/b", "a/b", "ab"),
        ("one\ntwo", "one\ntwo", "one two"),
        ("a\\\nb", "a\nb", "a\\nb"),
        (r"\\/[/]", "\\//", "//"),
        (r"ends\\Z", "ends\\Z", "ends\\"),
        (r"(?i)ab", "AB", "ac"),
    ],
)
def test_regular_expressions(regex: str, good: str, bad: str) -> None:
    assert re.fullmatch(regex, good) and not re.fullmatch(regex, bad)
    assert list(refused(regex_rule(regex, "f"), [good, bad])) == [bad]


@given(text=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12))
@settings(max_examples=60)
def test_an_escaped_text_matches_itself(text: str) -> None:
    assert rule_accepts(regex_rule(re.escape(text), "f"), text) and rule_accepts(choice_rule([text], "f"), text)


def test_an_empty_expression_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="f: must not be empty"):
        regex_rule("", "f")


LARK = """
?start: sum
sum: product ("+" product)*
product: NUMBER | "(" sum ")"
NUMBER: /[0-9]+/
"""
GBNF = r"""
# sums
root ::= sum
sum ::= product
   | product "+" sum  # the first comes again
product ::= number | (
  "(" sum ")"
)
number ::= [0-9]+
"""
JSON_GBNF = r"""
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::= "{" ws ( string ":" ws value ("," ws string ":" ws value)* )? "}" ws
array  ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws
ws ::= | " " | "\n" [ \t]{0,20}
"""


@pytest.mark.parametrize("grammar", [LARK, GBNF])
def test_sums(grammar: str) -> None:
    texts = ["1", "1+23", "(1+2)+3", "((4))", "", "1+", "(1", "a", "1 + 2"]
    assert list(refused(grammar_rule(grammar, "f"), texts)) == texts[4:]


@pytest.mark.parametrize("value", [{}, {"a": [1, -2.5, "x\n", None, {"b": True}]}, {"a": {"b": []}, "c": "é"}])
def test_the_grammar_for_json_of_llama_cpp(value: dict[str, object]) -> None:
    rule = grammar_rule(JSON_GBNF, "f")
    assert rule_accepts(rule, json.dumps(value)) and rule_accepts(rule, json.dumps(value, ensure_ascii=False))
    assert not rule_accepts(rule, json.dumps(value)[:-1])


@pytest.mark.parametrize(
    ("grammar", "good", "bad"),
    [
        ('root ::= [a-z]+ "a"', ["bca", "aa"], ["a", "bc"]),
        ('root ::= ("a" | "b"){2,3} "."', ["ab.", "aba."], ["a.", "abab."]),
        ('root ::= "a"{2} b?\nb ::= "b"', ["aa", "aab"], ["a", "b"]),
        (r'root ::= "\x41\u00e9\U0001F600\"\\"', ['Aé😀"\\'], ["A"]),
        ("root ::= [^\\n\\]-]+ .", ["ab\n", "a]", "ab"], ["a\nb", "-a"]),
        (
            'root ::= some-name other_name\nsome-name ::= "a"\nother_name ::= "b" |\nsome_name ::= "c"',
            ["ab", "a"],
            ["cb"],
        ),
        ('root ::= ""\n | "x"', ["", "x"], ["xx"]),
        ('root ::= "a" root "b" | "ab"', ["ab", "aabb"], ["aab", ""]),
        ('root ::= [/"\'] "//"', ["///", "'//"], ["//"]),
    ],
)
def test_grammars_in_gbnf(grammar: str, good: list[str], bad: list[str]) -> None:
    assert list(refused(grammar_rule(grammar, "f"), good + bad)) == bad


@pytest.mark.parametrize(
    ("grammar", "reason"),
    [
        ("a, b and c", "must be a grammar in GBNF"),
        ("", "must be a grammar in GBNF"),
        ('top ::= "a"', "it has no rule `root`"),
        ("root ::= other", "the rule `other` does not exist"),
        ('root ::= "a\nb ::= "c"', "line 1: a literal or a class that does not end"),
        ('root ::= "a" )', r"line 1: unexpected '\)'"),
        ('\nroot ::= ("a"', r"line 2: expected `\)`"),
        ("root ::= [z-a]", "line 1: the range 'z' to 'a' is empty"),
        ("root ::= []", "line 1: a class without characters"),
        (r'root ::= "\q"', r"line 1: \\q is no escape"),
        (r'root ::= "\u12"', r"line 1: \\u needs 4 hexadecimal digits"),
        ('root ::= "a"{x}', "line 1: a repetition must be"),
        ("root ::= <think>", "line 1: tokens such as"),
        ('root ::= TagDispatch(("<a>", b))', r"line 1: `TagDispatch\(…\)` is not supported"),
        ('root ::= (?= "a") "b"', "line 1: look-ahead is not supported"),
        (f"root ::= {'(' * 200}", "line 1: more than 100 parentheses"),
        (f'root ::= "a"{"*" * 5000}', "line 1: more than 100 repetitions"),
        (f"root ::= {'a ' * 100_000}", "may have at most 65536 characters"),
        ("\n" * 1_000_000, "may have at most 524288 characters"),
    ],
)
def test_what_is_no_grammar_is_refused_with_the_reason(grammar: str, reason: str) -> None:
    with pytest.raises(InvalidRequestError, match=rf"^f: .*{reason}"):
        grammar_rule(grammar, "f")
