"""Shared fixtures. Compiled programs are kept beside pytest's own cache, also for subprocesses."""

import contextlib
import functools
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
os.environ.setdefault("FIBSIM_CACHE", str(ROOT / ".pytest_cache" / "fibsim"))
# GPUs would round factors of products to 10 bits, and tests compare beyond that.
os.environ.setdefault("JAX_DEFAULT_MATMUL_PRECISION", "highest")
# The second is used where a test shares out stacks among devices.
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "2")


# The longest first: a file stays with one worker, and the last one should not wait for it.
_LONGEST = (
    "command_line",
    "slabs",
    "fit",
    "adapt",
    "specimens",
    "gradients",
    "simulate",
    "train",
    "regress",
    "pretrain",
    "render",
    "phases",
)


def pytest_collection_modifyitems(items):
    rank = {f"test_{name}.py": number for number, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))


@pytest.fixture(scope="session", autouse=True)
def compiled_programs_are_kept():
    """The suite spends most of its time in XLA; workers and subprocesses share what it makes."""
    from fibsim.console import use_compilation_cache

    use_compilation_cache()


@pytest.fixture
def enable_x64():
    """Double precision in this test alone."""
    import jax

    with jax.enable_x64(True):
        yield


# XLA's older generator of fused loops: all of a program in a third of the time or less.
_QUICK_LOOPS = "xla_cpu_use_fusion_emitters"


def _options_with_quick_loops(options):
    """jax's compiler options of a program, with the loops above. jax sets none for all programs."""

    def quick(*args, env_options_overrides=None, **kwargs):
        overrides = {_QUICK_LOOPS: False, **(env_options_overrides or {})}
        return options(*args, env_options_overrides=overrides, **kwargs)

    return quick


@functools.cache
def _knows_quick_loops() -> bool:
    """Whether this version of XLA has them; without, compiling fast is slower but no less good."""
    import jax

    try:
        jax.jit(lambda x: x + 1.0, compiler_options={_QUICK_LOOPS: False})(0.0)
    except jax.errors.JaxRuntimeError:
        return False
    return hasattr(jax._src.compiler, "get_compile_options")


@contextlib.contextmanager
def _compiling_fast():
    """In this process, and in those that are started meanwhile."""
    import jax

    with pytest.MonkeyPatch.context() as patch:
        before = jax.config.read("jax_disable_most_optimizations")
        jax.config.update("jax_disable_most_optimizations", True)
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
        if _knows_quick_loops():
            compiler = jax._src.compiler
            quick = _options_with_quick_loops(compiler.get_compile_options)
            patch.setattr(compiler, "get_compile_options", quick)
            flags = os.environ.get("XLA_FLAGS", "")
            patch.setenv("XLA_FLAGS", f"{flags} --{_QUICK_LOOPS}=false")
        try:
            yield
        finally:
            jax.config.update("jax_disable_most_optimizations", before)
            # Or later tests would find these programs in memory.
            jax.clear_caches()


@pytest.fixture(scope="module")
def compiled_fast():
    """A module whose programs run a few times only: a fifth of the time to compile, slower to run.

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
def compiling_fast():
    """`compiled_fast` for a part of a test or fixture: ``with compiling_fast():``."""
    return _compiling_fast


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real and reference data, which is not part of the repository."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the shared reference data is not beside the checkout")
    return folder
