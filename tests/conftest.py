"""Shared fixtures. Compiled programs are kept beside pytest's own cache, also for subprocesses."""

import contextlib
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
os.environ.setdefault("FIBSIM_CACHE", str(ROOT / ".pytest_cache" / "fibsim"))


# The longest first: a file stays with one worker, and the last one should not wait for it.
_LONGEST = ("command_line", "fit", "gradients", "adapt", "render", "slabs", "specimens", "phases")


def pytest_collection_modifyitems(items):
    rank = {f"test_{name}.py": number for number, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))


@pytest.fixture(scope="session", autouse=True)
def compiled_programs_are_kept():
    """The suite spends most of its time in XLA; workers and subprocesses share what it makes."""
    from fibsim.console import use_compilation_cache

    use_compilation_cache()


@contextlib.contextmanager
def _compiling_fast():
    import jax

    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    yield
    del os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"]
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="module")
def compiled_fast():
    """A module whose programs run a few times only: half the time to compile, slower to run.

    Holds for commands that its tests start, too. Not for bits that users should find as tested.
    """
    with _compiling_fast():
        yield


@pytest.fixture
def compiled_fast_once():
    """`compiled_fast` for a single test."""
    with _compiling_fast():
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real and reference data, which is not part of the repository."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the shared reference data is not beside the checkout")
    return folder
