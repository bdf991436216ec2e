"""The architecture, read from the imports: a module imports only from above it, and only build knows configs."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "score_jax"

# From top to bottom: a module imports from rows above its own, or from its own package.
LAYERS = [
    {"types"},
    {"arrays", "backend", "memory", "pickles", "settings"},
    {"integrate", "noise_levels"},
    {"kernels", "sde", "data", "networks"},
    {"distributions", "parameterization"},
    {"score"},
    {"losses", "sampling"},
    {"likelihood"},
    {"conditioning", "training", "metrics", "interop", "plotting"},
    {"build", "command", "generate", "pictures", "evaluation"},
    {"measures", "records"},
    {"runs"},
    {"published"},
]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "score_jax":
            parts = node.module.split(".")
            names |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("score_jax.")}
    return names


def modules() -> list[tuple[str, Path]]:
    paths = [p for p in ROOT.rglob("*.py") if p != ROOT / "__init__.py"]
    return [(p.relative_to(ROOT).parts[0].removesuffix(".py"), p) for p in paths]


@pytest.mark.parametrize(("unit", "path"), modules(), ids=lambda v: v if isinstance(v, str) else v.stem)
def test_a_module_imports_only_from_above(unit, path):
    for name in imported(path) - {unit}:
        assert RANK[name] < RANK[unit], f"{path.relative_to(ROOT)} imports {name}, which is not above {unit}"


@pytest.mark.parametrize(("unit", "path"), modules(), ids=lambda v: v if isinstance(v, str) else v.stem)
def test_config_objects_stop_at_build(unit, path):
    reads_configs = "ml_collections" in path.read_text()
    assert not reads_configs or unit in ("build", "command", "measures", "records", "runs", "published")


def test_every_module_has_its_place():
    assert {unit for unit, _ in modules()} == set(RANK)


def test_importing_the_package_pulls_in_neither_tensorflow_nor_torch():
    import subprocess
    import sys

    unwanted = "('tensorflow', 'torch', 'sklearn', 'wandb')"
    code = f"import score_jax.runs, sys; print([m for m in {unwanted} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
