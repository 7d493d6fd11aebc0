"""Small programs side by side: XLA runs one of them on hardly more than one core."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["available_cores", "beside", "map_in_threads"]

Item = TypeVar("Item")
Result = TypeVar("Result")


def available_cores() -> int:
    """Of this machine, or those that this process may use where the system tells them."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def map_in_threads(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """``[function(item) for item in items]``, a thread for every core."""
    with ThreadPoolExecutor(available_cores()) as pool:
        return list(pool.map(function, items))


@contextlib.contextmanager
def beside() -> Iterator[ThreadPoolExecutor]:
    """Takes work, by ``submit``, that is done one by one beside that of the ``with`` block.

    The block ends when all is done; where it fails, what has not begun is dropped.
    """
    with ThreadPoolExecutor(1) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
