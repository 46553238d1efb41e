"""Tests of emulated formats: each rounding, and agreement of the emulation with the worker's kernels."""

import pytest
import torch

from bench.quality.emulation import EXACT, EmulatedKernels, Format
from bench.quality.formats import CONSIDERED, INTEGER_FILE, INTEGER_MODE, LLAMA_CPP
from bench.quality.in_process import EmulatedModel, WindowModel
from bench.quality.measure import FLOAT32, measure
from bench.quality.rounding import Rounding, exact, half, integers, outliers_apart, remainders_too, rotated
from pagoda.models.model import Model
from tests.kernels.tiny_llama import make_llama, save_safetensors
from worker.kernels.integer import IntegerKernels
from worker.kernels.reference import ReferenceKernels
from worker.weights.grouped import AnyWeight, GroupedWeight

WINDOWS = [[(11 * i * i + 5 * i + seed) % 131 for i in range(60)] for seed in (1, 2)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return save_safetensors(make_llama(), tmp_path_factory.mktemp("tiny"))


def rows() -> torch.Tensor:
    return torch.randn(3, 80, generator=torch.Generator().manual_seed(0)) * torch.tensor([[1.0], [100.0], [0.0]])


def test_integers_are_within_half_a_step_of_their_row() -> None:
    step = rows().abs().amax(dim=-1, keepdim=True) / 127
    error = (integers(127)(rows()) - rows()).abs()
    assert bool((error <= step * 0.5001).all()) and float(error.max()) > 0.1 * float(step.max())


def test_a_block_is_rounded_by_itself_and_the_last_may_be_short() -> None:
    rounded = integers(127, block=32)(rows())
    for start in (0, 32, 64):
        block = slice(start, min(start + 32, 80))
        assert torch.equal(rounded[:, block], integers(127)(rows()[:, block]))


def test_ggml_keeps_a_block_s_scale_as_half() -> None:
    x = torch.tensor([[127 * 0.1, 0.1, 0.04]])
    assert torch.equal(
        integers(127, half_scale=True)(x), half(torch.tensor([[0.1]])) * torch.tensor([[127.0, 1.0, 0.0]])
    )


def test_what_remains_of_an_outstanding_block_is_rounded_too() -> None:
    x = rows()
    x[0, 32:64] *= 10
    once, twice = integers(127, block=32)(x), remainders_too(2.0, integers(127, block=32), 32)(x)
    error, error_once = ((rounded[0, 32:64] - x[0, 32:64]).abs().max() for rounded in (twice, once))
    assert error < error_once / 100
    twice[0, 32:64] = once[0, 32:64]
    assert torch.equal(twice, once)


def test_outliers_stay_and_no_longer_set_the_scale() -> None:
    x = torch.tensor([[0.1, -0.2, 0.3, 0.2, -0.1, 0.3, 0.1, 50.0]])
    kept = outliers_apart(2.0, integers(127))(x)
    assert kept[0, -1] == 50.0
    assert torch.allclose(kept, x, atol=0.3 / 127)
    assert float((integers(127)(x) - x).abs().max()) > 0.09


def test_a_rotation_changes_nothing_by_itself_and_spreads_an_outlier() -> None:
    x = torch.zeros(1, 64).index_fill(1, torch.tensor([5]), 16.0)
    assert torch.allclose(rotated(16, exact)(x), x, atol=1e-5)
    rotations = []

    def note(rotated_x: torch.Tensor) -> torch.Tensor:
        rotations.append(rotated_x)
        return rotated_x

    rotated(16, note)(x)
    assert float(rotations[0].abs().max()) == pytest.approx(4.0)


def test_exact_is_the_reference_bit_for_bit(model: Model) -> None:
    expected = WindowModel(model, ReferenceKernels()).logprobs(WINDOWS[0])
    assert torch.equal(EmulatedModel(model).logprobs_of_each(EXACT, WINDOWS[:1]), expected)


def random_weight(grouped: bool) -> AnyWeight:
    generator = torch.Generator().manual_seed(1)
    if not grouped:
        return torch.randn(40, 192, generator=generator)
    integers_OI = torch.randint(0, 16, (40, 192), dtype=torch.int8, generator=generator)
    scale_OG = torch.rand(40, 6, generator=generator)
    return GroupedWeight(integers_OI=integers_OI, scale_OG=scale_OG, minimum_OG=-8 * scale_OG)


@pytest.mark.parametrize(("name", "grouped"), [(INTEGER_MODE, False), (INTEGER_FILE, True)])
def test_a_linear_of_the_integer_mode_is_emulated_up_to_the_rounding_of_sums(name: str, grouped: bool) -> None:
    x_TI, weight = torch.randn(5, 192, generator=torch.Generator().manual_seed(0)), random_weight(grouped)
    x_TI[:3, 32:64] *= 10
    emulated = EmulatedKernels()
    emulated.format = CONSIDERED[name]
    expected, y_TO, exact_TO = (
        kernels.linear(x_TI, kernels.pack_linear(weight))
        for kernels in (IntegerKernels(), emulated, ReferenceKernels())
    )
    assert float((y_TO - expected).abs().max()) < 1e-3 * float((exact_TO - expected).abs().max())


@pytest.mark.parametrize("field", ["weights", "activations", "kv"])
def test_each_part_of_a_format_takes_effect(field: str, model: Model) -> None:
    coarse: dict[str, Rounding] = {field: integers(3)}
    emulated = EmulatedModel(model)
    assert not torch.equal(
        emulated.logprobs_of_each(Format(**coarse), WINDOWS[:1]), emulated.logprobs_of_each(EXACT, WINDOWS[:1])
    )


def test_all_are_measured_beside_float32_in_order(model: Model) -> None:
    qualities = measure(model, WINDOWS, [WINDOWS[0][:32], WINDOWS[1][:32]], {"integer": IntegerKernels()}, LLAMA_CPP)
    assert [quality.name for quality in qualities] == [FLOAT32, "integer", *LLAMA_CPP]
    assert qualities[0].mean_kl == 0
    assert all(0 < quality.mean_kl < 0.1 for quality in qualities[1:])
    assert all(quality.mean_kl < quality.ten_largest_kl < quality.largest_kl for quality in qualities[1:])


def test_texts_are_computed_alone(model: Model) -> None:
    window_model = WindowModel(model, IntegerKernels())
    alone = [window_model.logprobs(window[:20]).clone() for window in WINDOWS]
    assert torch.equal(window_model.logprobs_of_each([window[:20] for window in WINDOWS]), torch.cat(alone))
