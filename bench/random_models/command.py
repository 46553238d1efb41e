"""`python -m bench write-model` writes a GGUF file with the shapes and types of a public model, and random weights.

The file has the vocabulary of another GGUF file, so that it can be served: by Pagoda and by llama.cpp. Its text means nothing.
"""

from collections.abc import Iterator
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from gguf import GGMLQuantizationType, GGUFWriter

from bench.random_models.blocks import Bytes, random_blocks
from bench.random_models.shapes import SHAPES, ModelShape, Tensor
from bench.random_models.type_mix import FILE_TYPES, type_of
from pagoda.models.formats.ggml_type import GGMLType
from pagoda.models.formats.gguf_file import GGUFFile

BLOCKS_PER_PASS = 1 << 16
UNUSED = 5
"""The type of a token that occurs in no text."""
NORM_DEVIATION = 0.1


def write_model(
    shape: Annotated[str, typer.Argument(help=f"The public model: {', '.join(SHAPES)}.")],
    path: Annotated[Path, typer.Argument(help="The file to write.")],
    vocabulary: Annotated[Path, typer.Option(help="A GGUF file with the vocabulary.")],
    types: Annotated[str, typer.Option(help=f"Mix of types: {', '.join(FILE_TYPES)}.")] = "Q4_K_M",
    layers: Annotated[int | None, typer.Option(min=1, help="Number of layers. Default: as the model.")] = None,
    tied: Annotated[
        bool | None, typer.Option(help="Whether the embedding is the output. Default: as the file.")
    ] = None,
    seed: Annotated[int, typer.Option()] = 1,
) -> None:
    """Write a file with a public model's shapes and types, and random weights."""
    if shape not in SHAPES:
        raise typer.BadParameter(f"SHAPE must be one of {', '.join(SHAPES)} (got {shape!r})")
    if types not in FILE_TYPES:
        raise typer.BadParameter(f"--types must be one of {', '.join(FILE_TYPES)} (got {types!r})")
    changes: dict[str, Any] = {} if layers is None else {"num_layers": layers}
    changes |= {} if tied is None else {"is_tied": tied}
    unfinished = path.with_name(f"{path.name}.unfinished")
    write_gguf(unfinished, shape, replace(SHAPES[shape], **changes), types, vocabulary, np.random.default_rng(seed))
    unfinished.replace(path)
    typer.echo(f"{path}: {path.stat().st_size / 1e6:.0f} MB")


def write_gguf(
    path: Path, name: str, shape: ModelShape, types: str, vocabulary: Path, source: np.random.Generator
) -> None:
    writer = GGUFWriter(path, shape.architecture)
    writer.add_name(f"{name} with random weights")
    writer.add_file_type(FILE_TYPES[types])
    writer.add_quantization_version(2)
    for key, number in shape.metadata().items():
        add = writer.add_float32 if isinstance(number, float) else writer.add_uint32
        add(f"{shape.architecture}.{key}", number)
    _add_vocabulary(writer, vocabulary, shape.vocab_size)
    typed = [(tensor, type_of(tensor, shape, types)) for tensor in shape.tensors()]
    for tensor, ggml_type in typed:
        row_bytes = tensor.shape[-1] // ggml_type.block_size * ggml_type.block_bytes
        byte_shape = (*tensor.shape[:-1], row_bytes)
        writer.add_tensor_info(
            tensor.name, byte_shape, np.dtype(np.uint8), prod(byte_shape), GGMLQuantizationType(ggml_type.number)
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor, ggml_type in typed:
        writer.write_tensor_data(_content(tensor, ggml_type, shape, source))
    writer.close()


def _content(tensor: Tensor, ggml_type: GGMLType, shape: ModelShape, source: np.random.Generator) -> Bytes:
    if tensor.name == "rope_freqs.weight":
        return np.array(shape.llama3_factors(), np.float32).view(np.uint8)
    if len(tensor.shape) == 1:
        mean = 1.0 if "norm" in tensor.name else 0.0
        return (mean + NORM_DEVIATION * source.standard_normal(tensor.shape)).astype(np.float32).view(np.uint8)
    return np.concatenate(list(_passes(ggml_type, prod(tensor.shape) // ggml_type.block_size, source)))


def _passes(ggml_type: GGMLType, num_blocks: int, source: np.random.Generator) -> Iterator[Bytes]:
    for first in range(0, num_blocks, BLOCKS_PER_PASS):
        yield random_blocks(ggml_type, min(BLOCKS_PER_PASS, num_blocks - first), source).reshape(-1)


def _add_vocabulary(writer: GGUFWriter, path: Path, size: int) -> None:
    """Copy the vocabulary of another file, and add tokens that occur in no text up to this size."""
    with GGUFFile(path) as file:
        metadata = {
            key.removeprefix("tokenizer.ggml."): value
            for key, value in file.metadata.items()
            if key.startswith("tokenizer.ggml.")
        }
        chat_template = file.metadata.get("tokenizer.chat_template")
    tokens, missing = metadata["tokens"], size - len(metadata["tokens"])
    if missing < 0:
        raise typer.BadParameter(f"{path} has {len(tokens)} tokens, but the model has only {size}; name another file")
    writer.add_tokenizer_model(metadata["model"])
    writer.add_tokenizer_pre(metadata.get("pre", "default"))
    writer.add_token_list([*tokens, *(f"<added_{index}>" for index in range(missing))])
    if "token_type" in metadata:
        writer.add_token_types([*metadata["token_type"], *[UNUSED] * missing])
    if "scores" in metadata:
        writer.add_token_scores([*metadata["scores"], *[0.0] * missing])
    if "merges" in metadata:
        writer.add_token_merges(metadata["merges"])
    for key, value in metadata.items():
        if isinstance(value, bool):
            writer.add_bool(f"tokenizer.ggml.{key}", value)
        elif isinstance(value, int):
            writer.add_uint32(f"tokenizer.ggml.{key}", value)
    if chat_template is not None:
        writer.add_chat_template(chat_template)
