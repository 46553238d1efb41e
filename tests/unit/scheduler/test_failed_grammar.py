"""A test that an answer whose grammar failed is one that was cut off."""

from dataclasses import replace

import pytest

from pagoda.wire.finished import FinishReason
from pagoda.wire.step_result import SampledTokens
from tests.unit.scheduler.test_loop import System, request


@pytest.mark.parametrize(("grammar_failed", "reason"), [(False, FinishReason.STOP), (True, FinishReason.LENGTH)])
def test_a_failed_grammar_cuts_the_answer_off(grammar_failed: bool, reason: FinishReason) -> None:
    system = System()
    worker = system.attach()
    system.submit(request())
    result = system.fakes[worker].run_step()
    ended = SampledTokens(*result.sampled[0][:4], stopped=True, grammar_failed=grammar_failed)
    system.loop.apply_result(worker, replace(result, sampled=(ended,)))
    system.clock.run_soon()
    assert system.client.finished["r", 0].reason is reason
