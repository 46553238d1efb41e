"""Hostile templates: they run forever, fill memory, do not compile, or reach for Python's internals."""

from hypothesis import strategies as st


def doubled(value: str, times: int, use: str) -> str:
    """Return a template with deeply nested lists, which are small in memory and endless as text."""
    return (
        f"{{% set n = namespace(a={value}, b={value}) %}}{{% for i in range({times}) %}}"
        f"{{% set n.a = [n.a, n.a] %}}{{% set n.b = [n.b, n.b] %}}{{% endfor %}}{use}"
    )


ENDLESS = {
    "a doubled list as text": doubled("['x']", 40, "{{ n.a }}"),
    "a doubled list as JSON": doubled("['x']", 40, "{{ n.a | tojson }}"),
    "two doubled lists compared": doubled("['x']", 40, "{{ n.a == n.b }}"),
    "two doubled lists ordered": doubled("['x']", 40, "{{ n.a < n.b }}"),
    "a doubled list looked for": doubled("['x']", 40, "{{ n.a in [n.b] }}"),
    "doubled lists sorted": doubled("['x']", 40, "{{ [n.a, n.b] | sort }}"),
    "doubled lists joined": doubled("['x']", 40, "{{ [n.a, n.b] | join }}"),
    "doubled lists as unique": doubled("['x']", 40, "{{ [n.a] | map('string') | list }}"),
    "a doubled list pretty": doubled("['x']", 40, "{{ n.a | pprint }}"),
    "a doubled list of objects": doubled("{'x': 'y'}", 40, "{{ n.a | tojson(indent=2) }}"),
    "a doubled list as a width": doubled("['x']", 40, "{{ '%s' % n.a }}{{ '{}'.format(n.a) }}"),
    "ranges in ranges": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "a macro that calls itself": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(90) }}",
    "callers": "{% macro f(n) %}{{ caller() }}{% if n %}{% call f(n - 1) %}{% endcall %}{% call f(n - 1) %}{% endcall %}"
    "{% endif %}{% endmacro %}{% call f(90) %}{% endcall %}",
    "a recursive loop": "{% for a in [9] recursive %}{{ loop([a - 1, a - 1]) if a }}{% endfor %}" * 9
    + "{% for a in [60] recursive %}{{ loop([a - 1, a - 1]) if a }}{% endfor %}",
    "a list sorted again and again": "{% set a = range(99999) | list %}{% for b in range(99999) %}{% set c = a | sort %}"
    "{% endfor %}",
    "a text searched again and again": "{% set a = 'ab' * 999999 %}{% for b in range(99999) %}{% set c = a.count('ba') %}"
    "{% endfor %}",
    "quadratic replacing": "{% set a = 'a' * 3000000 %}{% for i in range(9999) %}{% set b = a | replace('aa', 'b') %}{% endfor %}",
    "wrapped words": "{{ ('a ' * 4000000) | wordwrap(1) }}",
    "filler text": "{{ lipsum(n=99999, html=false) }}",
    "links": "{{ ('www.a.de ' * 400000) | urlize }}",
    "numbers that grow": "{% set n = namespace(a=3) %}{% for i in range(99) %}{% set n.a = n.a * n.a %}{% endfor %}",
    "a number to the power of a number": "{% set a = messages | length + 9 %}{{ (a ** 9999999) % 7 }}",
    "the power of constants": "{{ (9 ** 9999999) % 7 }}",
    "grouped": "{% set a = range(9999) | list %}{% for i in range(99999) %}{% set b = a | groupby('real') %}{% endfor %}",
    "a long compile": "{{ a }}" * 30000,
    "a long condition": "{% if a %}b{% endif %}" * 11000,
    "a long list": "{{ [" + "1," * 120000 + "] | length }}",
    "many macros": "{% macro f() %}{% endmacro %}" * 8000,
}
LARGE = {
    "a text times a number": "{% set s = 'ab ' * 90000000 %}{{ s | length }}",
    "a text in pieces": "{% set s = 'ab ' * 3000000 %}{% set n = namespace(l=[]) %}"
    "{% for i in range(17) %}{% set n.l = n.l + [s.split()] %}{% endfor %}",
    "texts that double": "{% set n = namespace(a='aa') %}{% for i in range(99) %}{% set n.a = n.a ~ n.a %}{% endfor %}",
    "texts that double by sums": "{% set n = namespace(a='aa') %}{% for i in range(99) %}{% set n.a = n.a + n.a %}{% endfor %}",
    "blocks that double": "{% set n = namespace(a='aa') %}{% for i in range(99) %}{% set a %}{{ n.a }}{{ n.a }}{% endset %}"
    "{% set n.a = a %}{% endfor %}",
    "a list times a number": "{{ ([0] * 99999999) | length }}",
    "a date with a width": "{{ strftime_now('%200Y' * 400000) | length }}",
    "dates that double": "{% set n = namespace(a='%99Y') %}{% for i in range(99) %}{% set n.a = n.a ~ n.a %}"
    "{% set b = strftime_now(n.a) %}{% endfor %}",
    "a number with a width": "{{ '%999999999d' % 1 }}",
    "a number with a width behind": "{{ '%*d' % (999999999, 1) }}",
    "a filter's width": "{{ '%999999999d' | format(1) }}",
    "a format's width": "{{ '{:999999999}'.format(1) }}",
    "a format's width behind": "{{ '{0:{1}}'.format(1, 999999999) }}",
    "precision": "{{ '%.999999999f' % 1 }}",
    "padding": "{{ 'a'.ljust(999999999) }}",
    "zeros": "{{ 'a'.zfill(999999999) }}",
    "tabs": "{{ '\\t'.expandtabs(999999999) }}",
    "centered": "{{ 'a' | center(999999999) }}",
    "indented": "{{ 'a' | indent(999999999, true) }}",
    "indented JSON": "{{ messages | tojson(indent=999999999) }}",
    "batches": "{{ [1] | batch(99999999, 0) | list | length }}",
    "nothing replaced": "{% set a = 'a' * 9999999 %}{{ a | replace('', a) }}",
    "everything replaced": "{% set a = 'a' * 9999 %}{{ a.replace('a', a) }}",
    "a long separator": "{% set a = 'a' * 999999 %}{{ range(9999) | join(a) }}",
    "letters joined": "{% set a = 'a' * 99999 %}{{ a.join('b' * 9999) }}",
    "slices kept": "{% set a = 'a' * 999999 %}{% set n = namespace(l=[]) %}"
    "{% for i in range(9999) %}{% set n.l = n.l + [a[1:]] %}{% endfor %}",
    "bytes": "{{ ('a' * 9999999).encode('utf-32') * 99 }}",
}
INVALID = {
    "loops": "".join(f"{{% for a{i} in [1] %}}" for i in range(21)) + "{% endfor %}" * 21,
    "conditions": "{% if 1 %}" * 101 + "{% endif %}" * 101,
    "conditions without end": "{% if 1 %}" * 3000 + "{% endif %}" * 3000,
    "sums": "{{ " + "+".join(["a"] * 2500) + " }}",
    "parentheses": "{{ " + "(" * 9000 + "1" + ")" * 9000 + " }}",
    "lists": "{{ " + "[" * 9000 + "]" * 9000 + " }}",
    "minus signs": "{{ " + "-" * 9000 + "1 }}",
    "attributes": "{{ a" + ".b" * 9000 + " }}",
    "filters": "{{ a" + "|e" * 9000 + " }}",
    "a number": "{{ 1" + "0" * 5000 + " }}",
    "a break outside a loop": "{% break %}",
    "a continue outside a loop": "{% continue %}",
    "an argument twice": "{{ dict(a=1, a=2) }}",
    "a parameter twice": "{% macro f(a, a) %}{% endmacro %}",
    "no end": "{% for a in b %}",
    "no expression": "{% for %}",
    "an unknown filter": "{{ a | nothing }}",
    "an unknown test": "{{ a is nothing }}",
    "an unknown tag": "{% nothing %}",
    "an open string": "{{ 'a }}",
}
REFUSED = {
    "the class of a text": "{{ ''.__class__.__mro__ }}",
    "the class of a text by attr": "{{ (''|attr('__class__')).__mro__ }}",
    "a change of the messages": "{{ messages.append(1) }}",
    "the globals of a function": "{{ raise_exception.__globals__['json'] }}",
    "a private name in a namespace": "{% set n = namespace(_a=1) %}",
    "the type of an object": "{{ dict.__class__.__base__ }}",
    "a number as text": "{% set a = messages | length + 9 %}{{ a ** 5000 }}",
    "a range": "{{ range(999999999) | list }}",
    "division by zero": "{{ 1 / (messages | length - 1) }}",
    "an unknown encoding": "{{ 'a'.encode('cp037') }}",
    "an undefined value": "{{ a.b.c }}",
    "a file": "{% include '/etc/passwd' %}",
    "a macro without end": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "an exception": "{{ raise_exception('no') }}",
    "a huge exception": "{{ raise_exception('no' * 99999) }}",
    "an argument that is missing": "{{ messages | batch }}",
    "a slice of zero": "{{ [1][::0] }}",
    "lists in themselves": "{{ [namespace] | tojson }}",
    "a generator as JSON": "{{ messages | map('list') | tojson }}",
    "a long text": "{% for a in range(5000) %}{{ 'a' * 1000 }}{% endfor %}",
    "no cycle": "{% for a in [1] %}{{ loop.cycle() }}{% endfor %}",
}

# Pieces that grow a value or use it. Compositions of them cover most of what a template can do.
GROWING = st.sampled_from(
    [
        "{% set n.a = [n.a, n.a] %}",
        "{% set n.a = {'k': n.a, 'l': n.a} %}",
        "{% set n.a = n.a ~ n.a %}",
        "{% set n.a = (n.a | string) * 9 %}",
        "{% set n.a = (n.a | list) * 9 %}",
        "{% set n.a = (n.a | string).split('x') %}",
        "{% set n.a %}{{ n.a }}{{ n.a | tojson }}{% endset %}",
        "{% set n.a = n.a | string | replace('', 'xy') %}",
        "{% set n.a = [n.a] | map('string') | list %}",
        "{% set n.a = '%99999s' % n.a %}",
        "{% set n.a = (n.a | string).encode('utf-16') %}",
        "{% for b in range(9) %}{% set n.a = n.a | string | upper %}{% endfor %}",
        "{% set n.a = n.a | string | center(99999) | wordwrap(7) %}",
        "{% set n.a = n.a | string | urlize | indent(99) %}",
    ]
)
USING = st.sampled_from(
    [
        "{{ n.a }}",
        "{{ n.a == n.a | list }}",
        "{{ n.a | tojson(indent=3) }}",
        "{{ n.a | string | length }}",
        "{{ n.a | list | sort | join(',') }}",
        "{{ [n.a] | groupby('x') }}",
        "{{ n.a | slice(9) | list }}",
        "{{ n.a | batch(9, n.a) | list }}",
        "{{ n.a | string | wordcount }}",
        "{% for c in n.a %}{{ loop.cycle(c, n.a) }}{% endfor %}",
        "{{ n.a | pprint }}",
        "{{ n.a | first | string in n.a | string }}",
        "{{ strftime_now(n.a | string) }}",
        "{{ raise_exception(n.a) }}",
    ]
)


def composed(growing: list[str], using: list[str], times: int) -> str:
    """Return a template that grows a value this many times and then uses it."""
    loop = f"{{% for i in range({times}) %}}{''.join(growing)}{{% endfor %}}"
    return f"{{% set n = namespace(a='x') %}}{loop}{''.join(using)}"


COMPOSED = st.builds(
    composed,
    st.lists(GROWING, min_size=1, max_size=4),
    st.lists(USING, max_size=3),
    st.sampled_from([1, 9, 60]),
)
