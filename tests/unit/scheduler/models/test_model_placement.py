"""Tests of model placement, as tables: the loaded models, the wanted models and since when → the loads and unloads."""

from dataclasses import replace
from typing import Any

import pytest

from pagoda.models.memory_need import PROCESS_BYTES
from scheduler.models.model_placement import NOTHING_MOVES, Lack, Moves, Slot, SlotState, place_models

NOW_S = 100.0
ALL = {"a": 10, "b": 10, "c": 10}
USED = True


def empty(worker_id: str, **fields: Any) -> Slot:
    return replace(Slot(worker_id=worker_id, host_id="h", state=SlotState.EMPTY, loadable=ALL), **fields)


def serving(worker_id: str, model: str, is_running: bool = False, idle_since_s: float = 50.0, **fields: Any) -> Slot:
    state = SlotState.SERVING
    return empty(worker_id, state=state, model=model, is_running=is_running, idle_since_s=idle_since_s, **fields)


def loading(worker_id: str, model: str) -> Slot:
    return empty(worker_id, state=SlotState.LOADING, model=model)


def leaving(worker_id: str) -> Slot:
    return empty(worker_id, state=SlotState.LEAVING)


def loads(**models: str) -> Moves:
    return Moves(models)


def unloads(*worker_ids: str) -> Moves:
    return Moves({}, worker_ids)


def closes(*worker_ids: str) -> Moves:
    return Moves({}, (), frozenset(worker_ids))


TABLE = {
    "nobody waits": ([empty("x"), serving("y", "a")], {}, {}, NOTHING_MOVES),
    "it is in memory": ([empty("x"), serving("y", "a")], {"a": 1}, {}, NOTHING_MOVES),
    "it is being loaded": ([empty("x"), loading("y", "a")], {"a": 1}, {}, NOTHING_MOVES),
    "an empty slot": ([serving("w", "b"), empty("x")], {"a": 1}, {}, loads(x="a")),
    "empty slots go in the order of waiting": ([empty("x")], {"a": 2, "b": 1}, {}, loads(x="b")),
    "each gets one": ([empty("x"), empty("y")], {"a": 2, "b": 1}, {}, loads(x="b", y="a")),
    "only who can load it": ([empty("x", loadable={"b": 1}), empty("y")], {"a": 1}, {}, loads(y="a")),
    "nobody can load it": ([empty("x", loadable={"b": 1})], {"a": 1}, {}, NOTHING_MOVES),
    "a slot between two streams is waited for": ([leaving("w"), serving("x", "b")], {"a": 1}, {}, NOTHING_MOVES),
    "the longest unused goes": (
        [serving("x", "b", idle_since_s=9), serving("y", "c", idle_since_s=3)],
        {"a": 1},
        {},
        unloads("y"),
    ),
    "copies go first": (
        [serving("w", "b", idle_since_s=3), serving("x", "c", idle_since_s=9), serving("y", "c", USED)],
        {"a": 1},
        {},
        unloads("x"),
    ),
    "two that wait take two": (
        [serving("x", "c", idle_since_s=1), serving("y", "d", idle_since_s=2)],
        {"a": 5, "b": 6},
        {},
        unloads("x", "y"),
    ),
    "what is used stays, and takes nobody new": ([serving("x", "b", USED)], {"a": 1}, {}, closes("x")),
    "where nothing runs any more it goes": ([serving("x", "b")], {"a": 1, "b": 2}, {}, unloads("x")),
    "who came first for it is served first": ([serving("x", "b", USED)], {"a": 2, "b": 1}, {}, NOTHING_MOVES),
    "who came later for it waits": ([serving("x", "b", USED)], {"a": 1, "b": 2}, {}, closes("x")),
    "what was loaded has its time": ([serving("x", "b", USED, stays_until_s=NOW_S + 1)], {"a": 1}, {}, NOTHING_MOVES),
    "and no more than that": ([serving("x", "b", USED, stays_until_s=NOW_S)], {"a": 1}, {}, closes("x")),
    "of the used, the last to be waited for": (
        [serving("x", "b", USED), serving("y", "c", USED)],
        {"a": 1, "b": 3, "c": 2},
        {},
        closes("x"),
    ),
    "memory is enough": ([serving("w", "b"), empty("x")], {"a": 1}, {"h": 10}, loads(x="a")),
    "memory is short: somebody idle goes": ([serving("w", "b"), empty("x")], {"a": 1}, {"h": 9}, unloads("w")),
    "memory is short and in use": ([serving("w", "b", USED), empty("x")], {"a": 1}, {"h": 9}, closes("w")),
    "memory is short on that machine only": (
        [serving("w", "b"), empty("x"), empty("y", host_id="other")],
        {"a": 1},
        {"h": 9, "other": 10},
        loads(y="a"),
    ),
    "memory is short and nobody could go": ([empty("x")], {"a": 1}, {"h": 9}, loads(x="a")),
    "memory for one of two": ([empty("x"), empty("y")], {"a": 1, "b": 2}, {"h": 15}, loads(x="a")),
    "a worker takes its own model again, too": (
        [serving("w", "a", USED), empty("x", home_model="a"), empty("y")],
        {"a": 1},
        {},
        loads(x="a"),
    ),
    "unless others need it": (
        [serving("w", "a", USED), empty("x", home_model="a")],
        {"a": 1, "b": 2},
        {},
        loads(x="b"),
    ),
}


@pytest.mark.parametrize(("slots", "wanted", "available_bytes", "expected"), TABLE.values(), ids=TABLE)
def test_placement(
    slots: list[Slot], wanted: dict[str, float], available_bytes: dict[str, int], expected: Moves
) -> None:
    assert place_models(slots, wanted, available_bytes, NOW_S) == expected
    assert place_models(slots[::-1], wanted, available_bytes, NOW_S) == expected, "the order of slots plays a part"


MOST = 3 * PROCESS_BYTES
TOO_LARGE = {"a": MOST + 1, "b": PROCESS_BYTES, "c": PROCESS_BYTES}
REFUSED = Moves({}, refused={"a": Lack(MOST + 1, MOST)})
JUST_FITS = {**TOO_LARGE, "a": MOST}


def checking(*slots: Slot, loadable: dict[str, int] = TOO_LARGE, **fields: Any) -> list[Slot]:
    return [replace(slot, checks_memory=True, loadable=loadable, **fields) for slot in slots]


@pytest.mark.parametrize(
    ("slots", "available_bytes", "expected"),
    [
        pytest.param(checking(serving("x", "b"), serving("y", "c")), PROCESS_BYTES, REFUSED, id="no model is unloaded"),
        pytest.param(checking(serving("x", "b"), empty("y")), PROCESS_BYTES, REFUSED, id="nor an empty worker used"),
        pytest.param(
            checking(serving("x", "b"), serving("y", "c"), loadable=JUST_FITS),
            PROCESS_BYTES,
            unloads("x"),
            id="without all others it may fit",
        ),
        pytest.param(
            checking(serving("x", "b"), serving("y", "c"), pages_bytes=1),
            PROCESS_BYTES,
            unloads("x"),
            id="pages are given back too",
        ),
        pytest.param(
            [serving("x", "b", loadable=TOO_LARGE)], PROCESS_BYTES, unloads("x"), id="nobody checks the memory"
        ),
        pytest.param(
            checking(serving("x", "b"), loading("y", "c")), 0, unloads("x"), id="a load changes what is available"
        ),
        pytest.param(
            [*checking(serving("x", "b")), empty("y", loadable=JUST_FITS, host_id="large")],
            0,
            loads(y="a"),
            id="another machine is large enough",
        ),
    ],
)
def test_a_model_that_cannot_fit(slots: list[Slot], available_bytes: int, expected: Moves) -> None:
    hosts = {"h": available_bytes, "large": MOST}
    assert place_models(slots, {"a": 1}, hosts, NOW_S) == expected
    assert place_models(slots[::-1], {"a": 1}, hosts, NOW_S) == expected, "the order of slots plays a part"
