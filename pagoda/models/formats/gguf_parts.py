"""The files of a GGUF model that llama.cpp's `gguf-split` has split into parts.

The parts are NAME-00001-of-00003.gguf and so on, in one directory. The path of the first part stands for the model. It has all
metadata, and may have no tensors; the other parts have their place in the model and their tensors.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pagoda.models.errors import ModelFormatError

NUMBER_KEY, COUNT_KEY, NUM_TENSORS_KEY = "split.no", "split.count", "split.tensors.count"
MAX_PARTS = 1024
"""Largest number of parts, several times what large models have. Each part takes a mapping of the process."""
_NAME = re.compile(r"(.+)-([0-9]{5})-of-([0-9]{5})\.gguf", re.DOTALL)


class GGUFError(ModelFormatError):
    """The file is not GGUF, or is damaged. The message names the file and the problem."""

    position: int = 0
    """Position up to which the file was read, from its start."""


@dataclass(frozen=True, slots=True)
class Place:
    """The place of a file in its model."""

    number: int = 1
    """Number of the part, from 1."""
    count: int = 1
    """Number of parts, which is 1 for a model in one file."""

    def __str__(self) -> str:
        return "a whole model" if self.count == 1 else f"part {self.number} of {self.count}"


@dataclass(frozen=True, slots=True)
class PartName:
    """The name of a part's file."""

    stem: str
    """Name of the model, such as "qwen3-q8_0"."""
    place: Place

    @classmethod
    def parse(cls, file_name: str) -> Self | None:
        """Return the components of the name, or None if it is not the name of one part of several."""
        match = _NAME.fullmatch(file_name)
        if match is None:
            return None
        place = Place(int(match[2]), int(match[3]))
        return cls(match[1], place) if 1 <= place.number <= place.count and place.count > 1 else None

    @property
    def first(self) -> str:
        """Name of the first part."""
        return self._numbered(1)

    def all_names(self) -> list[str]:
        """Return the names of all parts, in order. Raises GGUFError for too many."""
        if self.place.count > MAX_PARTS:
            raise GGUFError(f"{self.first}: a model must have at most {MAX_PARTS} parts (got {self.place.count})")
        return [self._numbered(number) for number in range(1, self.place.count + 1)]

    def _numbered(self, number: int) -> str:
        return f"{self.stem}-{number:05}-of-{self.place.count:05}.gguf"


def model_stem(path: Path) -> str:
    """Return a file's name without its ending and its place."""
    name = PartName.parse(path.name)
    return name.stem if name is not None else path.stem


def first_part(path: Path) -> Path:
    """Return the path that stands for the model of this file: the first part beside it, or the file itself if it is not a part."""
    name = PartName.parse(path.name)
    return path.with_name(name.first) if name is not None else path


def part_files(path: Path) -> list[Path]:
    """Return the files of the model whose first or only file is `path`, in their order. Raises GGUFError if a part is missing."""
    files = part_paths(path)
    for file in files if len(files) > 1 else ():
        if not file.is_file():
            raise GGUFError(missing_part(file))
    return files


def part_paths(path: Path) -> list[Path]:
    """Return the paths of the model's files, whether or not they exist. Raises GGUFError for too many.

    Links are not followed: in the hub's cache the names are those of links, and the files have other names elsewhere.
    """
    name = PartName.parse(path.name)
    return [path] if name is None else [path.with_name(each) for each in name.all_names()]


def missing_part(path: Path) -> str:
    """Return the sentence about a part that is not there."""
    name = PartName.parse(path.name)
    assert name is not None
    return f"{path} is missing: it is {name.place} of the model, and all parts must be in one directory"


def check_place(path: Path, metadata: Mapping[str, Any], number: int) -> Place:
    """Return the place of a file that must be part `number` by its name and its metadata. Raises GGUFError if it is not."""
    place, name = _place_in(path, metadata), PartName.parse(path.name)
    if name is None and place.count > 1:
        raise GGUFError(
            f"{path}: it is {place} of a model; its name must end with -{place.number:05}-of-{place.count:05}.gguf, "
            "and the other parts must be beside it"
        )
    if name is not None and name.place != place:
        raise GGUFError(
            f"{path}: its name says {name.place}, but its metadata says {place}; it belongs to another model or was renamed"
        )
    if name is not None and place.number != number:
        raise GGUFError(f"{path}: it is {place} of a model; open the first part, {name.first}")
    return place


def check_num_tensors(path: Path, metadata: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Raise GGUFError if a part gives another number of tensors for the whole model than is expected."""
    found, wanted = _integer(path, metadata, NUM_TENSORS_KEY), expected.get(NUM_TENSORS_KEY)
    if found is not None and found != wanted:
        raise GGUFError(
            f"{path}: its metadata says that all parts together have {found} tensors (expected {wanted}); "
            "a part is damaged or belongs to another model"
        )


def _place_in(path: Path, metadata: Mapping[str, Any]) -> Place:
    count, index = _integer(path, metadata, COUNT_KEY), _integer(path, metadata, NUMBER_KEY) or 0
    if count is None or count <= 1:
        return Place()
    if not 0 <= index < count:
        raise GGUFError(f"{path}: damaged: {NUMBER_KEY} must be less than {COUNT_KEY}, {count} (got {index})")
    return Place(index + 1, count)


def _integer(path: Path, metadata: Mapping[str, Any], key: str) -> int | None:
    value = metadata.get(key)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
        raise GGUFError(f"{path}: damaged: {key} must be an integer (got {str(value)[:100]!r})")
    return value
