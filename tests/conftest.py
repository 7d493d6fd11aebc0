"""Shared fixtures. Compiled programs are kept beside pytest's own cache, also for subprocesses."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
os.environ.setdefault("FIBSIM_CACHE", str(ROOT / ".pytest_cache" / "fibsim"))


@pytest.fixture(scope="session", autouse=True)
def compiled_programs_are_kept():
    """The suite spends most of its time in XLA; workers and subprocesses share what it makes."""
    from fibsim.console import use_compilation_cache

    use_compilation_cache()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real and reference data, which is not part of the repository."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the shared reference data is not beside the checkout")
    return folder
