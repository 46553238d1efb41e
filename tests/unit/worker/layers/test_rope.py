"""Tests of rope tables against the exact mathematical functions."""

import torch

from worker.layers.rope import RopeTable, cos_sin, first_length, next_length, rope_frequencies


def test_cos_and_sin_are_right_in_every_quarter() -> None:
    angles = torch.cat((torch.linspace(0, 30, 20_001), torch.arange(0, 131_072, 7))).double()
    cos, sin = cos_sin(angles)
    assert float((cos.double() - angles.cos()).abs().max()) < 1e-7
    assert float((sin.double() - angles.sin()).abs().max()) < 1e-7


def test_a_quarter_turn_swaps_them() -> None:
    cos, sin = cos_sin(torch.arange(-8, 9).double() * (torch.pi / 2))
    assert cos.round().tolist() == [1.0, 0.0, -1.0, 0.0] * 4 + [1.0]
    assert sin.round().tolist() == [0.0, 1.0, 0.0, -1.0] * 4 + [0.0]


def test_a_table_begins_small_whatever_the_files_promise() -> None:
    for size in (2, 64, 128, 256, 1024):
        length = first_length(size, 1 << 20)
        assert 2 * length * size * 4 <= max(1 << 23, 2 * 1024 * size * 4)
    assert first_length(64, 8192) == 8192
    assert first_length(64, 100) == 100


def test_a_table_grows_with_its_sequences() -> None:
    assert [next_length(longest, 10_000) for longest in (1025, 2048, 2049, 9000)] == [2048, 2048, 4096, 10_000]
    assert [next_length(longest, 1 << 20) >> 17 for longest in (1 << 17, (1 << 17) + 1, 600_000, 1 << 20)] == [
        1,
        2,
        5,
        8,
    ]


def test_each_position_has_the_same_rotation_in_each_table() -> None:
    frequencies = rope_frequencies(16, 10_000.0)
    short, long = (RopeTable.make(frequencies, length, torch.device("cpu")) for length in (1500, 5000))
    assert torch.equal(short.cos_PH, long.cos_PH[:1500])
    assert torch.equal(short.sin_PH, long.sin_PH[:1500])


def test_a_longer_table_has_the_rows_of_a_shorter_one() -> None:
    frequencies, cpu = rope_frequencies(16, 10_000.0), torch.device("cpu")
    shorter = RopeTable.make(frequencies, 1500, cpu, 1.25)
    grown, whole = (RopeTable.make(frequencies, 5000, cpu, 1.25, shorter=known) for known in (shorter, None))
    assert torch.equal(grown.cos_PH, whole.cos_PH)
    assert torch.equal(grown.sin_PH, whole.sin_PH)
