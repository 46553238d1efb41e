"""The alphabet in which byte-level BPE vocabularies spell bytes: a printable character for each of the 256.

The table is GPT-2's and has been copied by every byte-level tokenizer since.
"""

PRINTABLE = frozenset((*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)))


def _characters() -> list[str]:
    """Printable bytes stand for themselves; the others take the characters from 256 on, in order."""
    replacements = iter(range(256, 512))
    return [chr(byte) if byte in PRINTABLE else chr(next(replacements)) for byte in range(256)]


CHARACTER_OF_BYTE = _characters()
BYTE_OF_CHARACTER = {character: byte for byte, character in enumerate(CHARACTER_OF_BYTE)}


def spelled_bytes(token: str) -> bytes:
    """The bytes that a vocabulary entry spells; a character outside the alphabet stands for its UTF-8."""
    try:
        return bytes([BYTE_OF_CHARACTER[character] for character in token])
    except KeyError:
        return token.encode()
