"""The alphabet of byte-level BPE vocabularies: a printable character for each of the 256 bytes.

The table is GPT-2's; all later byte-level tokenizers use it.
"""

PRINTABLE = frozenset((*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)))


def _characters() -> list[str]:
    """Return the character of each byte: its own if it is printable, else the next one from code point 256 on."""
    replacements = iter(range(256, 512))
    return [chr(byte) if byte in PRINTABLE else chr(next(replacements)) for byte in range(256)]


CHARACTER_OF_BYTE = _characters()
BYTE_OF_CHARACTER = {character: byte for byte, character in enumerate(CHARACTER_OF_BYTE)}


def spelled_bytes(token: str) -> bytes:
    """Return the bytes of a vocabulary entry. An entry with a character outside the alphabet is taken as UTF-8."""
    try:
        return bytes([BYTE_OF_CHARACTER[character] for character in token])
    except KeyError:
        return token.encode()
