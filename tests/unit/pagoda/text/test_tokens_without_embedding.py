"""A vocabulary that is longer than the embedding, as Ollama's converter writes it for Gemma 3."""

from pathlib import Path

import gguf
import numpy as np
import pytest

from pagoda.models.formats.gguf_file import GGUFFile
from pagoda.models.formats.gguf_tokens import read_tokens, token_metadata
from pagoda.text.gguf_vocabulary import read_vocabulary

TOKENS = ["<pad>", "<eos>", "<bos>", "<unk>", "a", "b", "<image_soft_token>"]
TYPES = [3, 3, 3, 2, 1, 1, 4]
NUM_ROWS = 6


def write(path: Path, architecture: str) -> Path:
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(TOKENS)
    writer.add_token_scores([0.0] * len(TOKENS))
    writer.add_token_types(TYPES)
    writer.add_bos_token_id(2)
    writer.add_eos_token_id(1)
    writer.add_add_space_prefix(False)
    writer.add_tensor("token_embd.weight", np.zeros((NUM_ROWS, 32), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(("architecture", "expected"), [("gemma3", TOKENS[:NUM_ROWS]), ("llama", TOKENS)])
def test_only_tokens_with_an_embedding_are_read(tmp_path: Path, architecture: str, expected: list[str]) -> None:
    with GGUFFile(write(tmp_path / "m.gguf", architecture)) as file:
        tokens = read_tokens(token_metadata(file))
    assert (tokens.texts, tokens.types) == (expected, TYPES[: len(expected)])


def test_the_text_of_a_token_without_an_embedding_is_no_token(tmp_path: Path) -> None:
    vocabularies = [
        read_vocabulary(write(tmp_path / f"{architecture}.gguf", architecture)) for architecture in ("gemma3", "llama")
    ]
    ids = [each.encoders.parsing.encode("a<image_soft_token>", add_special_tokens=False).ids for each in vocabularies]
    assert NUM_ROWS in ids[1]
    assert max(ids[0]) < NUM_ROWS
    assert [len(each.token_bytes) for each in vocabularies] == [NUM_ROWS, len(TOKENS)]
