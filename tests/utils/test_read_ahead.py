"""`read_ahead`: order, errors, bounded reading, and threads that end."""

import itertools
import threading
from contextlib import closing

import pytest

from xvit.utils.read_ahead import read_ahead

SIZE = 3


def reading_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "xvit-read-ahead"]


def test_items_come_in_order():
    assert list(read_ahead(range(100), SIZE)) == list(range(100))
    assert list(read_ahead([], SIZE)) == []
    assert not reading_threads()


def test_it_reads_while_an_item_is_worked_on_but_not_without_end():
    taken, enough = [], threading.Event()

    def numbers():
        for number in itertools.count():
            taken.append(number)
            if len(taken) == SIZE + 2:  # one given out, some in the queue, one in the thread's hand
                enough.set()
            yield number

    with closing(read_ahead(numbers(), SIZE)) as items:
        assert next(items) == 0
        assert enough.wait(60)
        assert not threading.Event().wait(0.3)  # nothing more is read meanwhile
        assert taken == list(range(SIZE + 2))
        assert [next(items) for _ in range(10)] == list(range(1, 11))
        assert len(taken) <= 11 + SIZE + 1
    assert not reading_threads()


@pytest.mark.parametrize("error", [ValueError("damaged"), KeyboardInterrupt()])
def test_an_error_comes_after_the_items_before_it(error):
    def items():
        yield from range(5)
        raise error

    seen = []
    with pytest.raises(type(error)) as raised:
        seen.extend(read_ahead(items(), SIZE))
    assert raised.value is error
    assert seen == list(range(5))
    assert not reading_threads()


def test_who_stops_early_stops_the_thread():
    for taken in range(3):
        with closing(read_ahead(itertools.count(), SIZE)) as items:
            for _ in range(taken):
                next(items)
        assert not reading_threads()
