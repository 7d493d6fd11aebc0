"""Who may import whom, and what stays unloaded until it is needed."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("flax", "orbax", "porespy", "matplotlib", "sklearn", "skimage")
# package -> top-level modules that its files must not import, anywhere in the file
FORBIDDEN = {
    "fibsim": ("fibnet", "experiments", "benchmarks", "tests", "flax", "orbax"),
    "fibnet": ("experiments", "benchmarks", "tests"),
}


def sources(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert len(files) > 10, f"{package} was not found below {ROOT}"
    return files


def absolute(node, path):
    """Modules that an import statement names, relative ones resolved."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    base = node.module or ""
    if node.level:
        parents = path.relative_to(ROOT).parts[: -node.level]
        base = ".".join([*parents, *([base] if base else [])])
    return [base, *(f"{base}.{alias.name}" for alias in node.names)]


def type_checking(node):
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports(path):
    """(module, loaded when the file is) of every import statement outside type checking."""
    found = []

    def walk(node, at_load):
        if type_checking(node):
            node = ast.Module(body=node.orelse, type_ignores=[])
        if isinstance(node, ast.Import | ast.ImportFrom):
            found.extend((name, at_load) for name in absolute(node, path))
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            walk(child, at_load and not inside)

    walk(ast.parse(path.read_text()), True)
    return found


def names_any(module, roots):
    return any(module == root or module.startswith(root + ".") for root in roots)


def graph(package):
    """Module -> modules of the same package that it imports when loaded."""
    modules = {}
    for path in sources(package):
        parts = path.relative_to(ROOT).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return {
        name: {m for m, at_load in imports(path) if at_load and m in modules and m != name}
        for name, path in modules.items()
    }


@pytest.mark.parametrize("package", list(FORBIDDEN))
def test_no_import_points_backward(package):
    wrong = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in sources(package)
        for module, _ in imports(path)
        if names_any(module, FORBIDDEN[package])
    ]
    assert not wrong


def test_fibsim_imports_heavy_packages_only_inside_functions():
    wrong = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in sources("fibsim")
        for module, at_load in imports(path)
        if at_load and names_any(module, HEAVY)
    ]
    assert not wrong


def test_fibnet_uses_no_private_name_of_fibsim():
    """The common version number excepted."""
    wrong = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in sources("fibnet")
        for module, _ in imports(path)
        if names_any(module, ("fibsim",))
        and not names_any(module, ("fibsim._version",))
        and any(part.startswith("_") for part in module.split("."))
    ]
    assert not wrong


@pytest.mark.parametrize("package", list(FORBIDDEN))
def test_no_import_cycle(package):
    """Modules can be ordered so that each imports earlier ones only."""
    edges = {name: set(targets) for name, targets in graph(package).items()}
    # A package's __init__ re-exports its files; that they load it first is no cycle of theirs.
    edges = {
        name: {t for t in targets if not name.startswith(t + ".")}
        for name, targets in edges.items()
    }
    while free := [name for name, targets in edges.items() if not targets & set(edges)]:
        for name in free:
            del edges[name]
    assert not edges, f"these import each other: {sorted(edges)}"


def test_the_walk_finds_a_backward_import(tmp_path):
    """Guards the guard: plain, aliased, nested and lazy imports are all seen."""
    path = tmp_path / "sample.py"
    path.write_text(
        "from typing import TYPE_CHECKING\n"
        "import fibnet.model as m\n"
        "try:\n    from flax import nnx\nexcept ImportError:\n    pass\n"
        "def f():\n    from skimage import io\n"
        "if TYPE_CHECKING:\n    import orbax\n"
    )
    found = dict(imports(path))
    assert found["fibnet.model"] and found["flax.nnx"] and not found["skimage"]
    assert "orbax" not in found


def loaded(script):
    """Top-level packages in ``sys.modules`` after a script ran in a fresh interpreter."""
    end = "\nimport json, sys\nprint(json.dumps(sorted({m.split('.')[0] for m in sys.modules})))"
    done = subprocess.run(
        [sys.executable, "-c", script + end], capture_output=True, text=True, timeout=120, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_import_fibsim_loads_nothing_heavy():
    packages = loaded("import fibsim")
    assert "fibsim" in packages
    assert not packages & {*HEAVY, "fibnet", "jax"}


def test_the_simulator_loads_nothing_heavy():
    """Also once the lazy names behind a simulation are used."""
    names = "expected_stack, make_instrument, make_specimen, load_instrument, read_stack"
    packages = loaded(f"from fibsim import {names}")
    assert "jax" in packages
    assert not packages & {*HEAVY, "fibnet"}


@pytest.mark.parametrize("program", ["fibsim", "fibnet"])
def test_help_does_not_load_jax(program):
    packages = loaded(
        f"from {program}.cli import main\n"
        "try:\n    code = main(['--help'])\n"
        "except SystemExit as end:\n    code = end.code\n"
        "assert not code, code"
    )
    assert program in packages
    assert not packages & {*HEAVY, "jax"}
