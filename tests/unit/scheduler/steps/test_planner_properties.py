"""Tests of the properties of every plan: budget, order, the share of waiting prompts, and progress of the oldest prompt."""

from dataclasses import dataclass, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from kvcache.page_pool import PagePool
from scheduler.steps.planner import plan_step
from scheduler.steps.sequence import Sequence
from scheduler.steps.step_decision import PrefillLimits, StepDecision, StepLimits
from tests.unit.scheduler.steps.test_planner import Given, make


@dataclass
class Scene:
    pool: PagePool
    running: list[Sequence]
    waiting: list[Sequence]
    limits: StepLimits

    def plan(self) -> StepDecision:
        return plan_step(self.running, self.waiting, self.pool, self.limits, somebody_waits=bool(self.waiting))

    @property
    def has_many_pages(self) -> bool:
        return self.pool.num_available > 2_000


@st.composite
def scenes(draw: st.DrawFn, may_be_constrained: bool = True) -> Scene:
    pool = PagePool(draw(st.sampled_from([300, 5_000])))
    num_places = draw(st.integers(4, 20))
    running, number = [], 0
    for length, share in draw(st.lists(st.tuples(st.integers(1, 400), st.floats(0, 1)), max_size=num_places)):
        computed = min(length - 1, round(length * share))
        if pool.num_available >= computed // 4 + 1:
            max_length = length + draw(st.sampled_from([1, 3, 500]))
            case = Given(
                "",
                length,
                computed=computed,
                first_token=1_000 * number,
                max_length=max_length,
                is_constrained=may_be_constrained and draw(st.booleans()),
            )
            running.append(make(pool, case, number))
            number += 1
    waiting = []
    for length, group in draw(st.lists(st.tuples(st.integers(1, 600), st.integers(0, 3)), max_size=12)):
        case = Given("", length, first_token=1_000 * number, group=f"call {group}" if group else "")
        waiting.append(make(pool, case, number))
        number += 1
    limits = StepLimits(
        max_step_tokens=draw(st.integers(1, 128)),
        max_step_sequences=num_places,
        watermark_pages=3,
        reserved_places=num_places // 8,
        max_lease_steps=draw(st.sampled_from([1, 8])),
        max_new_tokens=draw(st.sampled_from([1, 4, 16])),
        prefill=PrefillLimits(
            max_num_partial=draw(st.integers(1, 8)),
            max_long_partial=draw(st.integers(1, 4)),
            long_token_threshold=draw(st.integers(1, 40)),
        ),
    )
    return Scene(pool, running, waiting, limits)


@settings(deadline=None, max_examples=300)
@given(scenes())
def test_no_plan_exceeds_its_limits(scene: Scene) -> None:
    decision = scene.plan()
    assert sum(chunk.most_tokens for chunk in decision.chunks) <= scene.limits.max_step_tokens
    num_running = len(scene.running) - len(decision.preempted) - len(decision.outgrown) + len(decision.admissions)
    assert num_running <= max(scene.limits.max_step_sequences, len(scene.running))
    freed = sum(len(sequence.computation.block_table) for sequence in decision.preempted)
    assert sum(chunk.num_new_pages for chunk in decision.chunks) <= scene.pool.num_available + freed
    starts = {admission.sequence: 4 * len(admission.cached_pages) for admission in decision.admissions}
    for chunk in decision.chunks:
        assert chunk.num_tokens > 0
        assert chunk.max_start == starts.get(chunk.sequence, chunk.sequence.computation.num_computed)
        assert (chunk.max_new_tokens > 0) == (chunk.max_start + chunk.num_tokens == chunk.sequence.length)
        assert chunk.max_new_tokens <= (scene.limits.max_new_tokens if chunk.sequence.is_constrained else 1)
        assert chunk.sequence.length + chunk.max_new_tokens <= chunk.sequence.max_length
        num_pages = (
            len(chunk.sequence.computation.block_table) + starts.get(chunk.sequence, 0) // 4 + chunk.num_new_pages
        )
        assert num_pages * 4 >= chunk.max_start + chunk.most_tokens


@settings(deadline=None, max_examples=150)
@given(scenes())
def test_a_plan_depends_on_nothing_but_its_arguments(scene: Scene) -> None:
    decision = scene.plan()
    assert scene.plan() == decision
    scene.running.reverse()
    assert scene.plan() == decision


@settings(deadline=None, max_examples=150)
@given(scenes())
def test_sequences_that_decode_come_first(scene: Scene) -> None:
    decision = scene.plan()
    planned = {chunk.sequence for chunk in decision.chunks}
    decoding = [each for each in scene.running if each.num_pending == 1]
    if scene.has_many_pages:
        assert sum(each in planned for each in decoding) == min(len(decoding), scene.limits.max_step_tokens)
    num_further = sum(chunk.max_new_tokens - 1 for chunk in decision.chunks if chunk.max_new_tokens)
    num_left = max(0, scene.limits.max_step_tokens - len(decoding))
    has_prompts = bool(scene.waiting) or len(decoding) < len(scene.running)
    assert num_further <= (num_left // 8 if has_prompts else num_left)


@settings(deadline=None, max_examples=150)
@given(scenes(may_be_constrained=False))
def test_sequences_without_a_constraint_get_the_same_plan_from_any_worker(scene: Scene) -> None:
    decision = scene.plan()
    for most in (1, 4, 16):
        scene.limits = replace(scene.limits, max_new_tokens=most)
        assert scene.plan() == decision


@settings(deadline=None, max_examples=300)
@given(scenes())
def test_the_oldest_prompt_under_way_gets_on_and_leaves_room_for_a_short_one(scene: Scene) -> None:
    decision = scene.plan()
    planned = {chunk.sequence: chunk.num_tokens for chunk in decision.chunks}
    num_decoding = sum(each.num_pending == 1 for each in scene.running)
    num_decoded = sum(chunk.most_tokens for chunk in decision.chunks if chunk.sequence.num_pending == 1)
    prompts = sorted((each for each in scene.running if each.num_pending > 1), key=lambda each: each.order)
    num_left = scene.limits.max_step_tokens - max(num_decoding, num_decoded)
    if not scene.has_many_pages or num_left <= 0:
        return
    if prompts:
        assert planned[prompts[0]] >= min(prompts[0].num_pending, num_left, 8) // 2
    threshold = min(scene.limits.prefill.long_token_threshold, num_left // 2 - len(prompts))
    short = [each for each in scene.waiting if each.num_pending <= threshold and not each.group]
    has_place = len(scene.running) + len(scene.waiting) < scene.limits.max_step_sequences
    if short and has_place:
        assert any(
            each in planned for each in scene.waiting if each.length <= scene.limits.prefill.long_token_threshold
        )
