"""A program that loads many damaged copies of a tiny model: description, tokenizer, template and weights.

It runs as a process of its own with limited memory: `python -m tests.fakes.damaged_models gguf|part|safetensors SEED COUNT`.
It prints how many copies loaded and how many were refused with one of Pagoda's errors. Any other error ends it with a traceback
that names the damage.
"""

import faulthandler
import json
import random
import resource
import struct
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch

from gateway.prompts.chat_template import ChatTemplate
from gateway.prompts.template_renderer import ChatTemplateError
from pagoda.models.errors import ModelError
from pagoda.models.store import ModelStore
from pagoda.text.tokenizer import Tokenizer
from tests.fakes.chats import encoded_chat
from tests.fakes.tiny_model import write_tiny_gguf
from worker.kernels.reference import ReferenceKernels
from worker.models.families import UnsupportedArchitectureError, load_model
from worker.weights.checkpoint import WeightsError

OUR_ERRORS = (ModelError, ChatTemplateError, WeightsError, UnsupportedArchitectureError)
MAX_EXTRA_BYTES = 1 << 30
MAX_LOAD_S = 30
HEADER_BYTES = 12_000
"""Length of the tiny GGUF file before its weights."""
NUMBERS = (0, 1, 2, 7, 8, 255, 1 << 15, 1 << 20, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 40, 1 << 62, (1 << 64) - 1)

Damage = Callable[[random.Random, bytearray], str]


def truncate(rng: random.Random, data: bytearray) -> str:
    del data[rng.randrange(len(data)) :]
    return f"truncated to {len(data)}"


def flip_bits(rng: random.Random, data: bytearray) -> str:
    places = [rng.randrange(min(len(data), HEADER_BYTES)) for _ in range(rng.randint(1, 8))]
    for place in places:
        data[place] ^= 1 << rng.randrange(8)
    return f"bits flipped at {places}"


def lie_about_a_number(rng: random.Random, data: bytearray) -> str:
    width, place = rng.choice((4, 8)), rng.randrange(min(len(data), HEADER_BYTES) - 8)
    number = rng.choice(NUMBERS) & ((1 << 8 * width) - 1)
    data[place : place + width] = number.to_bytes(width, "little")
    return f"{number} written at {place}"


def lie_about_a_known_key(rng: random.Random, data: bytearray) -> str:
    """Overwrite the type and value after a metadata key, or the bytes after a tensor's name."""
    keys = (b"llama.", b"tokenizer.ggml.", b"general.", b"split.", b"blk.", b"token_embd.weight", b"output")
    key = rng.choice(keys)
    places = [place for place in range(min(len(data), HEADER_BYTES)) if data.startswith(key, place)]
    if not places:
        return "nothing"
    start = rng.choice(places)
    place = start + struct.unpack_from("<Q", data, start - 8)[0] + rng.choice((0, 4, 8, 12, 16))
    number = rng.choice(NUMBERS)
    data[place : place + 8] = number.to_bytes(8, "little")
    return f"{number} written at {place}, after {bytes(data[start : start + 40])!r}"


def remove_bytes(rng: random.Random, data: bytearray) -> str:
    start, length = rng.randrange(min(len(data), HEADER_BYTES)), rng.randint(1, 64)
    del data[start : start + length]
    return f"{length} bytes removed at {start}"


def change_json(rng: random.Random, data: bytearray) -> str:
    """Change one value of one tensor's description in a safetensors header."""
    length = struct.unpack_from("<Q", data)[0]
    header = json.loads(bytes(data[8 : 8 + length]))
    name = rng.choice([key for key in header if key != "__metadata__"])
    key = rng.choice(("dtype", "shape", "data_offsets"))
    value = rng.choice(
        ("F64", "Q4", [1 << 40, 1 << 40], [-1], [], [0, 1 << 62], [8, 4], [[1]], None, 7, {"a": 1}, "F16")
    )
    header[name][key] = value
    text = json.dumps(header).encode()
    data[: 8 + length] = len(text).to_bytes(8, "little") + text
    return f"{name!r} has {key} = {value!r}"


GGUF_DAMAGES: tuple[Damage, ...] = (truncate, flip_bits, lie_about_a_number, lie_about_a_known_key, remove_bytes)
SAFETENSORS_DAMAGES: tuple[Damage, ...] = (truncate, flip_bits, lie_about_a_number, change_json, remove_bytes)


def load(store: ModelStore, path: Path) -> None:
    model = store.get(str(path))
    tokenizer = Tokenizer.load(model)
    tokenizer.decode(tokenizer.encode("Hello, 1234 塔! <|im_end|>"))
    encoded_chat(ChatTemplate.load(model, tokenizer), [{"role": "user", "content": "hello"}])
    load_model(model, ReferenceKernels())


def damage_and_load(kind: str, seed: int, count: int, directory: Path) -> Counter[str]:
    path, file = tiny_model(kind, directory)
    whole = file.read_bytes()
    store = ModelStore(directory / "home")
    load(store, path)  # shows that it loads undamaged, and imports everything before memory is limited
    limit_memory()
    outcomes: Counter[str] = Counter()
    for number in range(seed * count, (seed + 1) * count):
        rng = random.Random(number)
        data = bytearray(whole)
        damage = rng.choice(SAFETENSORS_DAMAGES if kind == "safetensors" else GGUF_DAMAGES)(rng, data)
        file.unlink()
        file.write_bytes(data)
        faulthandler.dump_traceback_later(MAX_LOAD_S, exit=True)
        try:
            load(store, path)
            outcomes["loaded"] += 1
        except OUR_ERRORS as error:
            outcomes["refused"] += 1
            assert str(error), f"an error without a message; damage {number}: {damage}"
        except BaseException as error:
            error.add_note(f"damage {number}: {damage}")
            raise
        finally:
            faulthandler.cancel_dump_traceback_later()
    return outcomes


def tiny_model(kind: str, directory: Path) -> tuple[Path, Path]:
    """Write a tiny model; return its path and that of the file to damage."""
    if kind == "gguf":
        path = write_tiny_gguf(directory / "tiny.gguf", merges=["h e", "l l", "he ll"], num_layers=1)
        return path, path
    if kind == "part":
        path = write_tiny_gguf(directory / "tiny.gguf", num_layers=1, tensors_per_part=6)
        return path, path.with_name("tiny-00002-of-00002.gguf")
    from tests.kernels.tiny_llama import make_llama, save_safetensors  # transformers takes seconds to import

    checkpoint = directory / "checkpoint"
    save_safetensors(make_llama(num_hidden_layers=1, vocab_size=256), checkpoint)
    write_tokenizer(checkpoint)
    return checkpoint, checkpoint / "model.safetensors"


def write_tokenizer(directory: Path) -> None:
    from tokenizers import Tokenizer as LibraryTokenizer
    from tokenizers import models, pre_tokenizers

    from pagoda.text.byte_alphabet import CHARACTER_OF_BYTE

    library = LibraryTokenizer(models.BPE({character: byte for byte, character in enumerate(CHARACTER_OF_BYTE)}, []))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.save(str(directory / "tokenizer.json"))
    (directory / "chat_template.jinja").write_text("{{ messages[0].content }}")


def limit_memory() -> None:
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + MAX_EXTRA_BYTES, resource.RLIM_INFINITY))


def main(kind: str, seed: str, count: str) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as directory:
        print(json.dumps(damage_and_load(kind, int(seed), int(count), Path(directory))))


if __name__ == "__main__":
    main(*sys.argv[1:])
