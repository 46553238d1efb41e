"""GGUF files with only a vocabulary, one for each rule of llama.cpp, and the texts to try on them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf

from pagoda.text.byte_alphabet import CHARACTER_OF_BYTE

NORMAL, UNKNOWN, CONTROL = gguf.TokenType.NORMAL, gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL
USER_DEFINED, BYTE = gguf.TokenType.USER_DEFINED, gguf.TokenType.BYTE

MERGES = ["a b", "Ġ a", "Ġ ab", "Ġa b", "e n", "en d", "u s", "e r", "us er"]
PIECES = ["▁", *"abcdehinoprsuvwx123<>|/_!.\n", "ab", "▁a", "▁ab", "en", "end", "er", "us", "user", "▁▁"]

TEXTS = (
    " ",
    "ab",
    " ab",
    "ab  ab end",
    "<|user|>\nab<|end|>\n<|assistant|>\n",
    "<|user|> ab <|end|> \n ab",
    "<|user|>ab<|end|>ab<|other|>ab",
    "<s>ab</s> ab",
    "<s> ab",
    "<s><s>ab",
    "ab<think>ab</think>  ab",
    "ab <think> ab",
    "<think>\n\nab",
    "<unk>ab<unk>",
    "<|endoftext|>\nab",
    "<|user|><|user|><|end|>",
    "\n\nab\n",
    "<|end|>",
    "<|en d|> <|use",
    "é 塔",
    "<|fim_prefix|>ab<|fim_suffix|>end<|fim_middle|>",
)


def _byte_level(pre: str, **more: Any) -> dict[str, Any]:
    merged = list(dict.fromkeys(merge.replace(" ", "") for merge in MERGES))
    names = {"<|endoftext|>": CONTROL, "<|user|>": CONTROL, "<|assistant|>": CONTROL, "<|end|>": USER_DEFINED}
    names |= {"<|other|>": CONTROL, "<think>": USER_DEFINED, "</think>": USER_DEFINED, "<unk>": UNKNOWN}
    names |= {"<|fim_prefix|>": CONTROL, "<|fim_suffix|>": NORMAL, "<|fim_middle|>": USER_DEFINED, "<s>": CONTROL}
    names |= {"</s>": CONTROL, "<|file_sep|>": CONTROL}
    tokens = [*CHARACTER_OF_BYTE, *merged, *names]
    types = [NORMAL] * (256 + len(merged)) + list(names.values())
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": MERGES,
        "tokenizer.ggml.bos_token_id": tokens.index("<s>"),
        "tokenizer.ggml.eos_token_id": tokens.index("<|endoftext|>"),
        **more,
    }


def _sentencepiece(**more: Any) -> dict[str, Any]:
    names = {"<|endoftext|>": CONTROL, "<|user|>": CONTROL, "<|assistant|>": USER_DEFINED, "<|end|>": NORMAL}
    names |= {"<|other|>": CONTROL, "<think>": USER_DEFINED, "</think>": USER_DEFINED}
    first = {"<unk>": UNKNOWN, "<s>": CONTROL, "</s>": CONTROL}
    tokens = [*first, *(f"<0x{byte:02X}>" for byte in range(256)), *PIECES, *names]
    types = [*first.values(), *[BYTE] * 256, *[NORMAL] * len(PIECES), *names.values()]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.scores": [-float(place) for place in range(len(tokens))],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        **more,
    }


def _without(metadata: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in metadata.items() if key not in keys}


ENDS = ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.bos_token_id")
VOCABULARIES: dict[str, Callable[[], dict[str, Any]]] = {
    "smollm": lambda: _byte_level("smollm"),
    "llama-bpe": lambda: _byte_level("llama-bpe"),
    "qwen2 with a beginning": lambda: _byte_level("qwen2", **{"tokenizer.ggml.add_bos_token": True}),
    "byte-level phi-3": lambda: _byte_level("gpt-2", **{"general.name": "My Phi-3 small"}),
    "sentencepiece": lambda: _sentencepiece(),
    "sentencepiece without keys": lambda: _without(_sentencepiece(), *ENDS),
    "sentencepiece without a space": lambda: _sentencepiece(**{"tokenizer.ggml.add_space_prefix": False}),
    "sentencepiece without a beginning": lambda: _sentencepiece(**{"tokenizer.ggml.add_bos_token": False}),
    "phi-3": lambda: _sentencepiece(**{"general.name": "Phi-3-mini-4k-instruct"}),
    "phi3 without a space": lambda: _sentencepiece(
        **{"general.name": "phi3", "tokenizer.ggml.add_space_prefix": False}
    ),
}


def write_vocabulary(path: Path, metadata: dict[str, Any]) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in metadata.items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path
