"""A constraint that never applies, so that the answer is the same as without it."""

import hashlib

from pagoda.wire.constraint import Constraint, Marker

_GRAMMAR = 'start: "x"'

IDLE_CONSTRAINT = Constraint(
    grammar=_GRAMMAR,
    digest=hashlib.sha256(_GRAMMAR.encode()).digest(),
    # No model writes these bytes, which are not UTF-8.
    triggers=(Marker(text=b"\xff\xfe\xff\xfe"),),
)
"""A constraint whose grammar begins at a text that no model writes. Steps promise its sequences several tokens."""
