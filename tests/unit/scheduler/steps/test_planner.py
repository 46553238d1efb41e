"""Tests of plan_step, as tables: the running and waiting sequences and the pages → the next step."""

from dataclasses import dataclass, field

import pytest

from kvcache.block_hash import root_hash
from kvcache.page_pool import PagePool
from pagoda.wire.sampling import SamplingParams
from scheduler.steps.computation import Computation
from scheduler.steps.planner import plan_step
from scheduler.steps.sequence import Sequence
from scheduler.steps.sequence_records import History, QueuePlace
from scheduler.steps.step_decision import StepDecision, StepLimits
from tests.fakes.constraints import IDLE_CONSTRAINT

PAGE = 4
ROOT = root_hash(model_digest="d", page_size=PAGE)


@dataclass
class Given:
    """A sequence before the step: `prompt` tokens long, `computed` of them held in pages."""

    name: str
    prompt: int
    computed: int = 0
    sampling: int = 0
    uncertain: int = 0
    """Number of the `sampling` tokens that the steps in flight may not return."""
    priority: int = 0
    max_length: int = 1000
    passed: int = 0
    first_token: int = 0
    """First token of the prompt, from which its tokens count up. Prompts with the same first token share a prefix."""
    group: str = ""
    is_constrained: bool = False


def guided(name: str, prompt: int, **values: int) -> Given:
    return Given(name, prompt, is_constrained=True, **values)  # type: ignore[arg-type]


def make(pool: PagePool, given: Given, arrival: int) -> Sequence:
    sequence = Sequence(
        sequence_id=arrival,
        request_id="r",
        sample_index=0,
        model="m",
        token_ids=list(range(given.first_token, given.first_token + given.prompt)),
        num_prompt_tokens=given.prompt,
        sampling=SamplingParams(constraint=IDLE_CONSTRAINT if given.is_constrained else None),
        max_length=given.max_length,
        priority=given.priority,
        arrival=arrival,
        block_hashes=[ROOT],
        page_size=PAGE,
        group=given.group,
        history=History(arrival_s=0.0),
        queue_place=QueuePlace(num_passed_tokens=given.passed),
        computation=Computation(
            num_computed=given.computed, num_sampling=given.sampling, num_uncertain=given.uncertain
        ),
    )
    sequence.hash_full_blocks()
    sequence.computation.block_table = pool.allocate_pages(-(-given.computed // PAGE))
    for page, block in sequence.take_sealable_pages():
        pool.seal_block(page, block)
    return sequence


def describe(decision: StepDecision, names: dict[int, str]) -> str:
    """Write the decision on one line.

    "a 0+8 s" computes tokens 0..7 of a and samples; "a!" preempts it; "a#" ends it; "(a 4)" took 4 tokens from the cache;
    "a 7+1 s3" samples up to 3 tokens; "a 7+1 s *4" leases it 4 steps.
    """
    words = [f"{names[s.sequence_id]}!" for s in decision.preempted]
    words += [f"{names[s.sequence_id]}#" for s in decision.outgrown]
    words += [
        f"({names[a.sequence.sequence_id]} {len(a.cached_pages) * PAGE})" for a in decision.admissions if a.cached_pages
    ]
    for chunk in decision.chunks:
        words.append(f"{names[chunk.sequence.sequence_id]} {chunk.max_start}+{chunk.num_tokens}")
        words[-1] += " s" * (chunk.max_new_tokens > 0) + str(chunk.max_new_tokens) * (chunk.max_new_tokens > 1)
        words[-1] += f" *{chunk.num_steps}" * (chunk.num_steps > 1)
    return ", ".join(words)


@dataclass
class Case:
    what: str
    expected: str
    running: list[Given] = field(default_factory=list)
    waiting: list[Given] = field(default_factory=list)
    cached: list[Given] = field(default_factory=list)
    """Prompts of ended sequences, whose full blocks are cached."""
    pages: int = 32
    budget: int = 16
    sequences: int = 8
    watermark: int = 0
    lease: int = 1
    most: int = 1
    """Maximum number of new tokens per step and sequence."""


CASES = [
    Case("nothing to do", ""),
    Case("a short prompt is computed at once and sampled", "a 0+5 s", waiting=[Given("a", 5)]),
    Case("a long prompt is cut at the budget", "a 0+16", waiting=[Given("a", 40)]),
    Case("and goes on where it stopped", "a 16+16", running=[Given("a", 40, computed=16)]),
    Case("its last chunk samples", "a 32+8 s", running=[Given("a", 40, computed=32)]),
    Case(
        "decodes come before prefill chunks, even of older sequences",
        "b 5+1 s, a 16+15",
        running=[Given("a", 40, computed=16), Given("b", 6, computed=5)],
    ),
    Case(
        "what the budget leaves goes to those who wait, in order",
        "a 5+1 s, b 0+10 s, c 0+5",
        running=[Given("a", 6, computed=5)],
        waiting=[Given("b", 10, first_token=100), Given("c", 9, first_token=200)],
    ),
    Case(
        "the token being sampled is the next input",
        "a 6+1 s",
        running=[Given("a", 6, computed=6, sampling=1)],
    ),
    Case(
        "nothing is planned past the longest length", "", running=[Given("a", 6, computed=6, sampling=1, max_length=7)]
    ),
    Case(
        "no more sequences than a step may have",
        "a 5+1 s, b 0+4 s",
        running=[Given("a", 6, computed=5)],
        waiting=[Given("b", 4, first_token=100), Given("c", 4, first_token=200)],
        sequences=2,
    ),
    Case("a cached prefix is not computed again", "(a 8), a 8+3 s", waiting=[Given("a", 11)], cached=[Given("x", 9)]),
    Case(
        "a prompt that is cached whole leaves its last block to compute",
        "(a 4), a 4+4 s",
        waiting=[Given("a", 8)],
        cached=[Given("x", 8)],
    ),
    Case(
        "a sibling waits one step for the block that is being computed",
        "a 0+10 s, c 0+6",
        waiting=[Given("a", 10), Given("b", 10), Given("c", 9, first_token=50)],
    ),
    Case(
        "a sibling without a full block to share does not wait",
        "a 0+4 s, b 0+4 s",
        waiting=[Given("a", 4), Given("b", 4)],
    ),
    Case(
        "the latest arrival is preempted, and nobody is admitted in that step",
        "c!, a 8+1 s, b 8+1 s",
        running=[
            Given("a", 9, computed=8),
            Given("b", 9, computed=8, first_token=100),
            Given("c", 8, computed=7, first_token=200),
        ],
        waiting=[Given("d", 4, first_token=300)],
        pages=6,
    ),
    Case(
        "the lowest priority is preempted first, not the latest arrival",
        "a!, b 8+1 s, c 8+1 s",
        running=[
            Given("a", 8, computed=7, priority=1),
            Given("b", 9, computed=8, first_token=100),
            Given("c", 9, computed=8, first_token=200),
        ],
        pages=6,
    ),
    Case(
        "the last one gives way itself",
        "b!, a 6+1 s",
        running=[Given("a", 7, computed=6), Given("b", 9, computed=8, first_token=100)],
        pages=4,
    ),
    Case(
        "a victim that was planned already hands its budget and pages back",
        "b!, a 8+15",
        running=[Given("a", 24, computed=8), Given("b", 9, computed=8, first_token=100)],
        pages=6,
    ),
    Case("alone with all pages and still too long: it ends", "a#", running=[Given("a", 9, computed=8)], pages=2),
    Case(
        "but not before the tokens on their way have come",
        "",
        running=[Given("a", 8, computed=8, sampling=1)],
        pages=2,
    ),
    Case(
        "a sequence that can never fit ends, and those after it are served",
        "a#, b 0+4 s",
        waiting=[Given("a", 20), Given("b", 4, first_token=100)],
        pages=4,
    ),
    Case(
        "a prompt is admitted only if all of it fits, and only much shorter ones pass it",
        "a 5+1 s, d 0+4 s",
        running=[Given("a", 6, computed=5)],
        waiting=[Given("b", 30, first_token=100), Given("c", 9, first_token=200), Given("d", 4, first_token=300)],
        pages=8,
    ),
    Case(
        "and they do so only for a while",
        "a 5+1 s",
        running=[Given("a", 6, computed=5)],
        waiting=[Given("b", 30, passed=31, first_token=100), Given("d", 4, first_token=300)],
        pages=8,
    ),
    Case(
        "admission leaves the watermark to those who run",
        "a 5+1 s",
        running=[Given("a", 6, computed=5)],
        waiting=[Given("b", 20, first_token=100)],
        pages=8,
        watermark=2,
    ),
    Case("unless nobody runs", "b 0+16", waiting=[Given("b", 32)], pages=8, watermark=2),
    Case(
        "cached pages that are taken over are no longer there for others",
        "(b 8), b 8+1 s",
        waiting=[Given("b", 9), Given("c", 16, first_token=100)],
        cached=[Given("x", 8)],
        pages=6,
    ),
    Case(
        "when nobody waits and all decode, they go on by themselves",
        "a 5+1 s *8, b 9+1 s *8",
        running=[Given("a", 6, computed=5), Given("b", 9, computed=9, sampling=1, first_token=100)],
        lease=8,
    ),
    Case(
        "each as far as its longest length, and not at all once its last token is being sampled",
        "a 5+1 s, b 5+1 s *3",
        running=[
            Given("a", 6, computed=5, max_length=7),
            Given("b", 6, computed=5, max_length=9, first_token=100),
            Given("c", 6, computed=6, sampling=1, max_length=7, first_token=200),
        ],
        lease=8,
    ),
    Case("not beside a prompt", "b 5+1 s, a 0+4 s", running=[Given("a", 4), Given("b", 6, computed=5)], lease=8),
    Case(
        "not while somebody waits, even if there is no room for him",
        "a 5+1 s",
        running=[Given("a", 6, computed=5)],
        waiting=[Given("b", 4, first_token=100)],
        sequences=1,
        lease=8,
    ),
    Case(
        "not when the budget leaves somebody out",
        "a 5+1 s",
        running=[Given("a", 6, computed=5), Given("b", 6, computed=5, first_token=100)],
        budget=1,
        lease=8,
    ),
    Case("as far as the pages reach", "a 5+1 s *4", running=[Given("a", 6, computed=5)], pages=3, lease=8),
    Case("a constrained decode may bring several tokens", "a 5+1 s4", running=[guided("a", 6, computed=5)], most=4),
    Case("another one brings one", "a 5+1 s", running=[Given("a", 6, computed=5)], most=4),
    Case("the end of a prompt brings one", "a 0+5 s", waiting=[guided("a", 5)], most=4),
    Case(
        "at most a quarter of what may still come",
        "a 5+1 s2, b 5+1 s",
        running=[guided("a", 6, computed=5, max_length=14), guided("b", 6, computed=5, max_length=8, first_token=100)],
        most=4,
    ),
    Case(
        "it waits where steps in flight may bring its last token",
        "",
        running=[guided("a", 6, computed=9, sampling=4, uncertain=3, max_length=10)],
        most=4,
    ),
    Case(
        "all that decode get a token before any gets several",
        "a 5+1 s, b 5+1 s, c 5+1 s",
        running=[guided(name, 6, computed=5, first_token=100 * number) for number, name in enumerate("abc")],
        budget=5,
        most=4,
    ),
    Case(
        "and the constrained ones share what that leaves",
        "a 5+1 s3, b 5+1 s, c 5+1 s3",
        running=[
            guided("a", 6, computed=5),
            Given("b", 6, computed=5, first_token=100),
            guided("c", 6, computed=5, first_token=200),
        ],
        budget=7,
        most=4,
    ),
    Case(
        "prompts leave them an eighth",
        "b 5+1 s2, a 16+14",
        running=[Given("a", 40, computed=16), guided("b", 6, computed=5, first_token=100)],
        most=4,
    ),
    Case(
        "and so do prompts that wait",
        "b 5+1 s2, a 0+14",
        running=[guided("b", 6, computed=5, first_token=100)],
        waiting=[Given("a", 40)],
        most=4,
    ),
    Case(
        "pages ahead are not those that another one needs now",
        "a 6+1 s2, b 8+1 s4",
        running=[guided("a", 7, computed=6), guided("b", 9, computed=8, first_token=100)],
        pages=5,
        most=4,
    ),
    Case(
        "nor those that a free one needs",
        "a 6+1 s2, b 8+1 s",
        running=[guided("a", 7, computed=6), Given("b", 9, computed=8, first_token=100)],
        pages=5,
        most=4,
    ),
    Case("nor the watermark", "a 6+1 s2", running=[guided("a", 7, computed=6)], pages=3, watermark=1, most=4),
    Case(
        "steps of several tokens are leased too, as many as lead to the end at most",
        "a 5+1 s4 *8, b 5+1 s4 *4",
        running=[guided("a", 6, computed=5), guided("b", 6, computed=5, max_length=22, first_token=100)],
        lease=8,
        most=4,
    ),
    Case(
        "beside steps of one token",
        "a 5+1 s4 *8, b 5+1 s *8, c 5+1 s *2",
        running=[
            guided("a", 6, computed=5),
            Given("b", 6, computed=5, first_token=100),
            Given("c", 6, computed=5, max_length=8, first_token=200),
        ],
        lease=8,
        most=4,
    ),
    Case(
        "more sequences than share the cost of further tokens get one each",
        ", ".join(f"{name} 5+1 s" for name in "abcdefghi"),
        running=[guided(name, 6, computed=5, first_token=100 * number) for number, name in enumerate("abcdefghi")],
        pages=100,
        most=4,
    ),
    Case(
        "longer leases promise less for each step",
        "a 5+1 s8 *8, b 5+1 s *8",
        running=[guided("a", 6, computed=5), Given("b", 6, computed=5, first_token=100)],
        pages=100,
        budget=64,
        lease=8,
        most=16,
    ),
    Case("with pages for all of them", "a 5+1 s4 *2", running=[guided("a", 6, computed=5)], pages=4, lease=8, most=4),
    Case(
        "but not past the steps of a sequence that continues after them",
        "a 5+1 s4 *4, b 5+1 s4 *4",
        running=[guided("a", 6, computed=5), guided("b", 6, computed=5, max_length=23, first_token=100)],
        lease=8,
        most=4,
    ),
    Case(
        "nor beside one that waits whether its last token comes",
        "a 5+1 s4",
        running=[
            guided("a", 6, computed=5),
            guided("b", 6, computed=9, sampling=4, uncertain=3, max_length=10, first_token=100),
        ],
        lease=8,
        most=4,
    ),
    Case("and without the watermark", "a 5+1 s *2", running=[Given("a", 6, computed=5)], pages=3, watermark=1, lease=8),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
def test_plan_step(case: Case) -> None:
    pool = PagePool(case.pages)
    for arrival, given in enumerate(case.cached):
        ended = make(
            pool, Given(given.name, given.prompt, computed=given.prompt, first_token=given.first_token), arrival
        )
        pool.release_pages(ended.computation.block_table)
    running = [make(pool, given, 100 + arrival) for arrival, given in enumerate(case.running)]
    waiting = [make(pool, given, 200 + arrival) for arrival, given in enumerate(case.waiting)]
    names = {100 + index: given.name for index, given in enumerate(case.running)}
    names |= {200 + index: given.name for index, given in enumerate(case.waiting)}
    limits = StepLimits(
        max_step_tokens=case.budget,
        max_step_sequences=case.sequences,
        watermark_pages=case.watermark,
        max_lease_steps=case.lease,
        max_new_tokens=case.most,
    )
    before = (pool.num_free, pool.num_cached, pool.num_used)
    decision = plan_step(running, waiting, pool, limits, somebody_waits=bool(waiting))
    assert describe(decision, names) == case.expected
    assert (pool.num_free, pool.num_cached, pool.num_used) == before, "planning changed the pool"
    again = plan_step(running, waiting, pool, limits, somebody_waits=bool(waiting))
    assert again == decision, "planning is not repeatable"
