"""The architecture, read from the imports: a module imports only from above it, and only build knows configs."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import score_jax

ROOT = Path(__file__).parent.parent / "score_jax"

# From top to bottom: a module imports from rows above its own, or from its own package.
LAYERS = [
    {"types"},
    {"arrays", "backend", "devices", "pickles", "pytrees"},
    {"integrate", "noise_levels"},
    {"kernels", "sde", "data", "networks"},
    {"adapters", "conditions", "distributions", "parameterization"},
    {"score"},
    {"losses", "sampling"},
    {"likelihood"},
    {"conditioning", "training", "metrics", "interop", "plotting"},
    {"lab"},
]
# Of the lab likewise: what comes after `build` imports nothing of it, and only commands are below.
ROOMS = [
    {"joining", "kept", "own", "memory", "progress", "records", "sharing"},
    {"experiment", "features", "pictures", "published", "settings"},
    {"samples"},
    {"measures", "trial"},
    {"show"},
    {"evaluation", "restoring", "watching"},
    {"run"},
    {"planning", "sweeps"},
    {"reports"},
    {"build", "command"},
    {"opened", "doctoring"},
    {"doctor", "train", "sample", "evaluate", "condition", "sweep", "report", "plan"},
]
# Names of the contract that are reached by module, such as `kernels.Gaussian`, so that two modules may have them.
BY_MODULE = {
    "EDM": {"parameterization", "sde"},
    "Flow": {"parameterization", "sde"},
    "Gaussian": {"distributions", "kernels"},
    "ddpm": {"networks.presets", "sampling.grids"},
    "load": {"data.tfds", "interop.sources"},
    "train": {"lab.run", "training.loop"},
    "train_together": {"lab.run", "training.together"},
    "uniform": {"losses.times", "sampling.grids"},
}
# Likewise of the lab's commands, and of the parts that `build` makes, one a file.
BY_ROOM = {"define", "main", "plan"}
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
ROOM = {name: rank for rank, room in enumerate(ROOMS) for name in room}


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


def rooms() -> list[tuple[str, Path]]:
    lab = ROOT / "lab"
    return [(p.relative_to(lab).parts[0].removesuffix(".py"), p) for p in lab.rglob("*.py") if p != lab / "__init__.py"]


def imported_rooms(path: Path) -> set[str]:
    """The rooms of the lab that a module imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("score_jax.lab"):
            parts = str(node.module).split(".")
            names |= {parts[2]} if len(parts) > 2 else {alias.name for alias in node.names}
    return names


@pytest.mark.parametrize(("room", "path"), rooms(), ids=lambda v: v if isinstance(v, str) else v.stem)
def test_a_room_of_the_lab_imports_only_from_above(room, path):
    for name in imported_rooms(path) - {room}:
        assert ROOM[name] < ROOM[room], f"{path.relative_to(ROOT)} imports {name}, which is not above {room}"


@pytest.mark.parametrize(("unit", "path"), modules(), ids=lambda v: v if isinstance(v, str) else v.stem)
def test_settings_stop_at_build(unit, path):
    """Only three rooms import ml_collections, and no function of another is handed a config."""
    room = path.relative_to(ROOT).parts[1].removesuffix(".py") if unit == "lab" else unit
    if unit == "lab" and room in ("settings", "build", "command"):
        return
    tree = ast.parse(path.read_text())
    assert "ml_collections" not in packages(tree)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    handed = {a.arg for f in functions for a in [*f.args.posonlyargs, *f.args.args, *f.args.kwonlyargs]}
    assert unit != "lab" or not {"config", "settings"} & handed - (
        {"settings"} if room in ("own", "records") else set()
    )


def test_the_guide_lists_the_layers():
    guide = (ROOT.parent / "CONTRIBUTING.md").read_text().split("```text\n")[1].split("```")[0]
    assert [set(line.split()) for line in guide.splitlines()] == LAYERS


def test_every_module_has_its_place():
    assert {unit for unit, _ in modules()} == set(RANK)
    assert {room for room, _ in rooms()} == set(ROOM)


def public_names(path: Path) -> set[str]:
    """The classes, functions, aliases and constants of a module, without what it imports."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)}
    return {name for name in names if not name.startswith("_")}


def test_a_public_name_lives_in_one_module():
    owners: dict[str, set[str]] = {}
    for unit, path in modules():
        for name in public_names(path) - (BY_ROOM if unit == "lab" else set()):
            owners.setdefault(name, set()).add(".".join(path.relative_to(ROOT).with_suffix("").parts))
    assert {name: where for name, where in owners.items() if len(where) > 1} == BY_MODULE


# What losses, samplers, networks and likelihood are made of, and what of third parties they may import.
CORE = {
    *("types", "arrays", "devices", "integrate", "kernels", "sde", "noise_levels", "distributions", "parameterization"),
    *("pytrees", "score", "networks", "losses", "sampling", "likelihood", "conditioning"),
}
THIRD_PARTY = {"jax", "flax", "optax", "numpy"}


class WithoutFunctions(ast.NodeTransformer):
    """Leaves of a module what runs when it is imported."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        return None


def packages(tree: ast.AST) -> set[str]:
    """The packages of third parties that a module imports."""
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    return {name.split(".")[0] for name in names} - {"score_jax", *sys.stdlib_module_names}


@pytest.mark.parametrize(
    ("unit", "path"),
    [(unit, path) for unit, path in modules() if unit in CORE],
    ids=lambda v: v if isinstance(v, str) else v.stem,
)
def test_the_core_needs_jax_flax_optax_numpy_and_itself(unit, path):
    tree = ast.parse(path.read_text())
    deferred = {"scipy"} if unit == "noise_levels" else set()
    assert packages(tree) <= THIRD_PARTY | deferred and imported(path) <= CORE
    assert packages(WithoutFunctions().visit(tree)) <= THIRD_PARTY


# Names under which packages are installed and not imported.
INSTALLED = {
    "absl": "absl-py",
    "orbax": "orbax-checkpoint",
    "PIL": "pillow",
    "yaml": "pyyaml",
    "sklearn": "scikit-learn",
    "ml_collections": "ml-collections",
    "tensorflow_datasets": "tensorflow-datasets",
}


def test_what_is_required_is_imported_and_the_reverse():
    project = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())["project"]
    name = lambda requirement: re.match(r"[\w-]+", requirement)[0]
    required = {name(requirement) for requirement in project["dependencies"]}
    extras = {name(requirement) for extra in project["optional-dependencies"].values() for requirement in extra}
    imported = set().union(*(packages(ast.parse(path.read_text())) for _, path in modules())) - {"configs"}
    installed = {INSTALLED.get(package, package) for package in imported}
    assert required <= installed
    assert installed - required <= extras


def python(code: str, *arguments: str) -> str:
    """What a new process prints that runs the code."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


# Makes the packages that the first argument names as if they were not installed.
ABSENT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in sys.argv[1].split():
            raise ModuleNotFoundError(f"{name} is not for this one", name=name)

sys.meta_path.insert(0, Absent())
"""
# absl and yaml would be there too, but optax imports the one and flax the other.
HEAVY = (
    "ml_collections tensorflow_datasets grain matplotlib sklearn scipy chex orbax PIL tqdm safetensors threadpoolctl"
)


def test_the_core_runs_where_nothing_else_is_installed():
    code = """
import importlib, pkgutil
import jax, jax.numpy as jnp
import score_jax

for name in sys.argv[2].split():
    module = getattr(score_jax, name)
    for inner in pkgutil.iter_modules(getattr(module, "__path__", [])):
        importlib.import_module(f"{module.__name__}.{inner.name}")

key, vp, x0 = jax.random.key(0), score_jax.sde.VP(), jnp.ones((4, 2))
score_fn = score_jax.distributions.score_of(score_jax.distributions.Gaussian(jnp.ones(2), 0.1), vp)
loss = score_jax.losses.diffusion_loss(key, sde=vp, score_fn=score_fn, x0=x0)
ts = score_jax.sampling.grids.log_snr(vp, 20)
x = score_jax.sampling.sample(key, score_jax.sampling.ddim(vp, score_fn), vp.prior_sample(key, x0.shape), ts)
print(loss.shape, bool(jnp.isfinite(loss).all()), bool((abs(x - 1) < 2).all()))
"""
    assert python(ABSENT + code, HEAVY, " ".join(CORE)) == "(4,) True True\n"


def test_training_needs_no_settings_pictures_or_data_sets():
    absent = (
        "ml_collections tensorflow_datasets grain orbax matplotlib sklearn scipy PIL safetensors wandb tensorboardX"
    )
    assert python(ABSENT + "import score_jax.training", absent) == ""


def test_importing_the_package_imports_none_of_a_third_party():
    code = """
import sys

before = {*sys.modules}
import score_jax

print(sorted({name.split(".")[0] for name in {*sys.modules} - before} - {*sys.stdlib_module_names}))
"""
    assert python(code) == "['score_jax']\n"


def test_namespaces_come_when_they_are_asked_for():
    assert set(dir(score_jax)) == set(RANK)
    assert score_jax.losses.diffusion_loss is score_jax.losses.diffusion.diffusion_loss
    with pytest.raises(AttributeError, match=r"score_jax has no 'loses'; it has .*kernels, lab, likelihood, losses, "):
        score_jax.loses  # noqa: B018


def test_the_commands_start_without_what_they_need_later_or_never():
    names = "train, sample, evaluate, condition, sweep, report, plan"
    later = "('matplotlib', 'scipy', 'orbax', 'tensorstore', 'grain', 'PIL', 'sklearn', 'tensorflow', 'torch', 'wandb')"
    code = f"from score_jax.lab import {names}; import sys; print([m for m in {later} if m in sys.modules])"
    assert python(code) == "[]\n"
