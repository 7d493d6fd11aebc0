"""Data moves one way: no backward import, and nothing heavy is loaded before it is needed."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {"flax", "orbax", "matplotlib", "skimage", "sklearn", "porespy"}


def imports_of(path: Path) -> set[str]:
    """Top-level packages imported anywhere in a file, function bodies included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module.split(".")[0])
    return found


def files(package: str) -> list[Path]:
    found = sorted((ROOT / package).rglob("*.py"))
    assert len(found) > 10
    return found


@pytest.mark.parametrize("path", files("fibsim"), ids=lambda p: str(p.relative_to(ROOT)))
def test_fibsim_knows_nothing_of_what_is_built_on_it(path):
    assert not imports_of(path) & (HEAVY | {"fibnet", "experiments", "benchmarks", "tests"})


@pytest.mark.parametrize("path", files("fibnet"), ids=lambda p: str(p.relative_to(ROOT)))
def test_fibnet_does_not_import_what_uses_it(path):
    assert not imports_of(path) & {"experiments", "benchmarks", "tests"}


def loaded(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split("\n")[-2].split())


def test_importing_fibsim_loads_nothing_heavy():
    names = loaded("import fibsim")
    assert "fibsim" in names and not names & (HEAVY | {"jax", "fibnet"})


def test_public_names_of_fibsim_all_exist():
    names = loaded("import fibsim\nfor n in fibsim.__all__: getattr(fibsim, n)")
    assert "jax" in names and not names & (HEAVY | {"fibnet"})


@pytest.mark.parametrize("program", ["fibsim", "fibnet"])
@pytest.mark.parametrize("command", [[], ["train"], ["fit"]])
def test_help_does_not_load_jax(program, command):
    if command == ["train" if program == "fibsim" else "fit"]:
        pytest.skip("a command of the other program")
    code = (
        f"from {program}.cli import main\n"
        f"try: main({[*command, '--help']})\n"
        "except SystemExit as stop: assert stop.code == 0"
    )
    names = loaded(code)
    assert "tyro" in names and "jax" not in names
