"""A mypy plugin that lists where fields of messages and wire data are read: mypy knows the type before each dot.

For each attribute that is read, it writes a line `class.field file` to the file that the environment names.
"""

import os
from collections.abc import Callable

from mypy.plugin import AttributeContext, Plugin
from mypy.types import Type

READS_VARIABLE = "FIELD_READS_FILE"


class FieldReads(Plugin):
    def get_attribute_hook(self, fullname: str) -> Callable[[AttributeContext], Type] | None:
        if not fullname.startswith(("pagoda.wire.", "protos.v1.")):
            return None

        def note_read(context: AttributeContext) -> Type:
            if not context.is_lvalue:
                with open(os.environ[READS_VARIABLE], "a") as reads:
                    reads.write(f"{fullname} {getattr(context.api, 'path', '')}\n")
            return context.default_attr_type

        return note_read


def plugin(version: str) -> type[Plugin]:
    return FieldReads
