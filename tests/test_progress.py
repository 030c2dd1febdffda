"""A thread works one item ahead of its loop; a clock adds up the parts of a loop."""

import sys
import time
from threading import Event

import pytest

from src import progress
from src.progress import Clock, in_thread


def test_a_thread_is_one_item_ahead_and_keeps_the_order():
    """Each item waits for the start of the next one: without a thread this would never end."""
    started = [Event() for _ in range(6)]
    started[5].set()

    def begin(item):
        started[item].set()
        return item

    done = []
    for item in in_thread(begin, range(5)):
        assert started[item + 1].wait(timeout=60)
        assert not any(event.is_set() for event in started[item + 2 : 5])
        done.append(item)
    assert done == list(range(5))


def test_an_error_in_the_thread_comes_where_its_item_is_due():
    due = in_thread(lambda item: 1 // item, [2, 1, 0, 3])
    assert [next(due), next(due)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(due)


def test_who_leaves_the_loop_does_not_wait_for_the_item_ahead():
    left = Event()
    loop = in_thread(lambda item: item and left.wait(timeout=60), [0, 1, 2])
    assert next(loop) == 0
    start = time.monotonic()
    loop.close()  # with item 1 under way
    assert time.monotonic() - start < 30
    left.set()


def test_a_bar_can_do_without_a_terminal_and_without_stderr(monkeypatch):
    for stream in (None, sys.__stderr__):
        monkeypatch.setattr(sys, "stderr", stream)
        assert list(progress.progress(range(3), "items", " items")) == [0, 1, 2]


def test_a_clock_adds_up_parts_and_waits(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])

    def items():
        for _ in range(3):
            now[0] += 2
            yield

    clock = Clock()
    for _ in clock.waiting("wait", items()):
        with clock.part("work"):
            now[0] += 1
        now[0] += 8  # in no part
    assert clock.seconds == {"wait": 6, "work": 3}
