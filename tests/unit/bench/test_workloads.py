"""Tests of workloads: exact lengths of prompts, and the same prompts for the same seed."""

from collections import Counter

from bench.workloads import RandomWorkload, SharedPrefixWorkload, Vocabulary

VOCABULARY = Vocabulary(low=10, high=500)


def prompts(workload: RandomWorkload | SharedPrefixWorkload) -> list[tuple[int, ...]]:
    requests = workload.requests(VOCABULARY)
    assert all(isinstance(request.prompt, list) for request in requests)
    return [tuple(request.prompt) for request in requests]  # type: ignore[arg-type]  # asserted above


def test_random_prompts_are_exact_and_distinct() -> None:
    workload = RandomWorkload(num_requests=20, input_len=32, output_len=7, seed=1)
    requests = workload.requests(VOCABULARY)
    assert {request.max_tokens for request in requests} == {7}
    assert {len(prompt) for prompt in prompts(workload)} == {32}
    assert len(set(prompts(workload))) == 20
    assert all(10 <= token_id < 500 for prompt in prompts(workload) for token_id in prompt)


def test_the_seed_decides() -> None:
    def workload(seed: int) -> RandomWorkload:
        return RandomWorkload(num_requests=3, input_len=16, output_len=1, seed=seed)

    assert prompts(workload(1)) == prompts(workload(1)) != prompts(workload(2))


def test_shared_prefixes_are_shared_equally_and_endings_are_not() -> None:
    workload = SharedPrefixWorkload(num_requests=12, num_prefixes=3, prefix_len=64, suffix_len=16, output_len=4, seed=5)
    prefixes = Counter(prompt[:64] for prompt in prompts(workload))
    assert sorted(prefixes.values()) == [4, 4, 4]
    assert len({prompt[64:] for prompt in prompts(workload)}) == 12
    assert {len(prompt) for prompt in prompts(workload)} == {80}


def test_text_has_a_word_for_each_token() -> None:
    workload = RandomWorkload(num_requests=2, input_len=9, output_len=1)
    for request in workload.requests(Vocabulary(as_text=True)):
        assert isinstance(request.prompt, str)
        assert len(request.prompt.split()) == 9
