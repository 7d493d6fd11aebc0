"""Work shared out among cores: order, errors, and that it runs side by side."""

import threading

import pytest

from fibsim.threads import available_cores, beside, map_in_threads


def test_results_keep_their_order():
    assert map_in_threads(lambda x: x * x, range(50)) == [x * x for x in range(50)]
    assert map_in_threads(str, []) == []


def test_an_error_reaches_the_caller():
    def fail(x):
        raise ValueError(f"no {x}")

    with pytest.raises(ValueError, match="no 1"):
        map_in_threads(fail, [1])


@pytest.mark.skipif(available_cores() < 2, reason="a single core runs one item at a time")
def test_items_run_side_by_side():
    meet = threading.Barrier(2, timeout=10)
    assert sorted(map_in_threads(lambda _: meet.wait(), range(2))) == [0, 1]


def test_work_beside_a_block_is_done_when_it_ends():
    with beside() as other:
        first, second = other.submit(lambda: 1), other.submit(lambda: 2)
    assert first.done() and second.done() and first.result() + second.result() == 3


def test_work_that_has_not_begun_is_dropped_where_the_block_fails():
    begun, go_on = threading.Event(), threading.Event()

    def first():
        begun.set()
        assert go_on.wait(10)

    with pytest.raises(KeyboardInterrupt), beside() as other:
        running, waiting = other.submit(first), other.submit(lambda: 2)
        assert begun.wait(10)
        threading.Timer(0.2, go_on.set).start()
        raise KeyboardInterrupt
    assert running.done() and waiting.cancelled()
