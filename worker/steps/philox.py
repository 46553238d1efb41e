"""Counter-based random numbers (Philox4x32-10): the same counter and key give the same number on every machine.

This makes sampling repeatable: a token's random number is a function of its seed, its sample's index and its position among
the generated tokens.
"""

_MASK_32 = 0xFFFFFFFF
_ROUNDS = 10
# Constants from Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3" (2011).
_MULTIPLIER_0, _MULTIPLIER_1 = 0xD2511F53, 0xCD9E8D57
_WEYL_0, _WEYL_1 = 0x9E3779B9, 0xBB67AE85

Counter = tuple[int, int, int, int]


def philox(counter: Counter, key: tuple[int, int]) -> Counter:
    """Return four random 32-bit numbers for a 128-bit counter and a 64-bit key."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        product_0, product_1 = c0 * _MULTIPLIER_0, c2 * _MULTIPLIER_1
        c0, c1, c2, c3 = (
            (product_1 >> 32) ^ c1 ^ k0,
            product_1 & _MASK_32,
            (product_0 >> 32) ^ c3 ^ k1,
            product_0 & _MASK_32,
        )
        k0, k1 = (k0 + _WEYL_0) & _MASK_32, (k1 + _WEYL_1) & _MASK_32
    return c0, c1, c2, c3


def random_bits(seed: int, sample_index: int, position: int) -> int:
    """Return 64 random bits for the token at this position of this sample; position 0 is the first generated token."""
    counter = (position & _MASK_32, sample_index & _MASK_32, 0, 0)
    low, high, _, _ = philox(counter, (seed & _MASK_32, (seed >> 32) & _MASK_32))
    return high << 32 | low
