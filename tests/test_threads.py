"""Work shared out among cores: order, errors, and that it runs side by side."""

import threading

import pytest

from fibsim.threads import available_cores, map_in_threads


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
