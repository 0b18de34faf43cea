"""What is kept of an event's context takes the memory that it needs and no more."""

from __future__ import annotations

import tracemalloc

from models.audit import leaves

EVENTS = 200


def test_a_context_that_is_kept_takes_little_more_than_its_text() -> None:
    texts = [b'{"ip": "192.0.2.7", "message_id": "<%d@example.com>"}' % each for each in range(EVENTS)]
    leaves._context.cache_clear()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for text in texts:
            leaves._context(text)
        kept = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
        leaves._context.cache_clear()
    assert kept / EVENTS < 1000


def test_texts_cut_from_one_are_each_as_alone() -> None:
    values: list[object] = [None, [], {}, [{"b": 1, "a": '"\u0001",'}], "text", [f',"{leaves._CUT[:-1]}",', None]]
    assert leaves._dump_each(values) == [leaves._dump(value) for value in values]
    assert leaves._dump_each([]) == []
