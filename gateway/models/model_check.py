"""A process that says whether texts and chats can be made into tokens for a model: `python -m gateway.models.model_check PATH`.

The command asks it before it makes a model, since it has no tokenizer of its own. A template that takes the place of the
model's own comes on standard input. Exits with UNUSABLE and the reason on standard error.
"""

import sys
from pathlib import Path

from gateway.models.served_model import ServedModel
from pagoda.models.errors import ModelFormatError
from pagoda.models.formats.description import describe
from pagoda.models.model_settings import ModelSettings

UNUSABLE = 65


def main(path: Path, template: str) -> int:
    try:
        ServedModel.check_model(describe(path.name, path, digest="", size_bytes=0), ModelSettings(template=template))
    except ModelFormatError as error:
        print(error, file=sys.stderr)
        return UNUSABLE
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.stdin.read()))
