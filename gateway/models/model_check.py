"""A process that checks a model's tokenizer and chat template: `python -m gateway.models.model_check PATH`.

`pagoda create` runs it before it creates a model, because the command has no tokenizer of its own. Standard input may contain a
template that replaces the model's own. If the model cannot be used, the exit status is UNUSABLE and standard error has the reason.
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
