"""The notebooks: they run from a clean kernel, their numbers hold, and what is committed is what ran.

A notebook prints its numbers as JSON in its last cell. They are checked twice by the same function: as committed, and
as computed here. `jupyter execute --inplace notebooks/*.ipynb` renews the committed outputs.
"""

import ast
import asyncio
import inspect
import json
import os
import re
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
MACHINE_PATH = re.compile(r"(?<![\w.])/(home|root|Users|tmp|work|opt|usr|var|private|mnt)/|[A-Z]:\\\\?Users")


def by_name(notebook):
    return notebook.stem


def texts(cell):
    """Everything a cell shows except pictures."""
    for output in cell.get("outputs", []):
        yield output.get("text", "")
        yield from (str(value) for kind, value in output.get("data", {}).items() if not kind.startswith("image/"))


def pictures(notebook):
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return [o for o in outputs if any(kind.startswith("image/") for kind in o.get("data", {}))]


def numbers_of(notebook):
    return json.loads("".join(texts(notebook.cells[-1])))


def code_of(path):
    """The syntax tree of all code cells."""
    cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    return ast.parse("\n".join(TransformerManager().transform_cell(source) for source in cells))


def in_new_kernel(notebook, folder):
    """Executes the notebook with this interpreter, whatever kernels are installed, with `folder` as its directory."""
    spec = {"argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"], "language": "python"}
    kernel = folder / "kernels" / "this-python"
    kernel.mkdir(parents=True)
    (kernel / "kernel.json").write_text(json.dumps({**spec, "display_name": "this Python"}))
    specs = KernelSpecManager(kernel_dirs=[str(folder / "kernels")], ensure_native_kernel=False)
    manager = AsyncKernelManager(kernel_name="this-python", kernel_spec_manager=specs, transport="ipc")
    manager.connection_file = str(folder / "kernel-connection.json")
    client = NotebookClient(notebook, km=manager, timeout=300, resources={"metadata": {"path": str(folder)}})
    # The notebook sees one device, not the eight virtual ones of the tests, and no settings of the user's.
    flags = [f for f in os.environ.get("XLA_FLAGS", "").split() if "host_platform_device_count" not in f]
    try:
        return client.execute(env={**os.environ, "XLA_FLAGS": " ".join(flags), "IPYTHONDIR": str(folder / "ipython")})
    finally:
        asyncio.run(manager.shutdown_kernel(now=True))  # the client leaves a manager that it was given running


def score_matching_holds(numbers):
    """01: every number against theory; draws are seeded, so the room is for other machines' rounding and training."""
    # Float32 scores of up to about 50, by two orders of evaluation.
    assert numbers["normaliser"] < 1e-4

    # Seven objectives, their constants added, are the exact ESM; so are their gradients (worst of three parameters).
    names = {"ESM", "ISM", "ISM, Hutchinson", "SSM", "SSM-VR", "FD-SSM", "DSM"}
    assert abs(numbers["exact_esm"] - 0.1486) < 2e-4  # the same digits on a lattice nine times as dense
    assert numbers["value_off"].keys() == numbers["gradient_off"].keys() == names
    assert max(map(abs, numbers["value_off"].values())) < 4  # standard errors
    assert max(numbers["gradient_off"].values()) < 4
    error = numbers["standard_error"]
    assert max(error.values()) < 0.02  # nats, where the constants are 0.9 and −1.1: a slip in one is 40 of these
    assert error["ESM"] < error["ISM"] < error["SSM-VR"] < error["SSM"]
    assert all(abs(m - 1.5) < 0.11 for m in numbers["minimum_at"].values())  # the grid's spacing is 0.1

    # Where the density is below 1e-6 the error is as large as the score or larger.
    rough, smooth = (numbers["score_error"][name] for name in ("almost no noise, 0.1", "all noise levels, 5"))
    assert rough["rare"] > 1 and rough["dense"] < 0.5 and smooth["dense"] < 0.5
    assert rough["share_rare"] > 0.5 and smooth["share_rare"] == 0
    one, all_levels = (numbers["relative_error"][name] for name in ("almost no noise", "all noise levels"))
    assert one[-1] < 0.05 and min(one[:-1]) > 0.2 and max(all_levels) < 0.2  # the last level is the one it has seen

    # −½ − 1/a on the line; with noise of variance v: −1 + (1 + v)/2 + v/(2a²) − 1/a, smallest at a = v.
    for a, (on_line, noised) in ((float(a), values) for a, values in numbers["manifold"].items()):
        assert abs(on_line + 0.5 + 1 / a) < 4 * np.sqrt(0.5 / 20_000) + 1e-6 / a  # 4 s.e. of ½ x₁², and float32
        spread = 1e-4 / (2 * a**2) * np.sqrt(2 / 20_000) + np.sqrt(0.5 / 20_000)
        assert abs(noised + 0.5 - 1e-4 / (2 * a**2) + 1 / a) < 4 * spread + 1e-6 / a
    assert min(numbers["manifold"], key=lambda a: numbers["manifold"][a][1]) == "1e-04"

    # The score is blind to the weights until the modes overlap, and so is Langevin dynamics.
    in_score = numbers["weights_in_score"]
    assert in_score["0.1"] < 1e-6 and in_score["1"] < 1e-6 and in_score["5"] > 0.03 and in_score["20"] > 0.01
    weight = numbers["weights"]
    assert abs(weight["Langevin, exact score"] - weight["start"]) < 0.05
    assert weight["Langevin, learnt with almost no noise"] < 0.7
    assert abs(weight["annealed, exact score"] - 0.8) < 0.05  # 4 s.e. of 0.011
    assert abs(weight["annealed, learnt at all levels"] - 0.8) < 0.08  # and the learnt score's own error
    # The choice is made on the way: 0.8 Φ(5√2/√401) + 0.2 Φ(−5√2/√401) = 0.583 at σ = 20, and final by σ = 1.8.
    shares = numbers["share_by_level"]
    assert abs(shares["20"] - 0.583) < 0.06  # 4 s.e. of 0.014
    assert abs(shares["1.8"] - shares["0.1"]) < 0.02 and shares["0.1"] == weight["annealed, exact score"]


def noise_levels_hold(numbers):
    """02: every number against theory or the published table; draws and training are seeded, as in 01."""
    # Energy distances of 2,000 points to as many others have a standard error of about 0.001 when the laws agree.
    distance = numbers["energy_distance"]
    assert numbers["score_error"] < 0.02  # of 1, the error of no score
    assert min(distance["only σ = 0.1"], distance["only σ = 1"]) > 0.02
    assert all(abs(distance[name]) < 0.005 for name in ("annealed, exact score", "other data"))
    assert max(distance["annealed"], distance["consistent"]) < 0.01  # and the learnt score's own error

    # From a small level the chains come back to where they began, from the largest distance they spread like the data:
    # 64 draws of 100 are 47.4 different ones, with a standard deviation of 2.8.
    *_, (far, many) = numbers["digits"].values()
    (data, _), (near, few) = numbers["digits"]["64 draws"], numbers["digits"]["0.25"]
    assert few < 20 and near < 0.5 * data
    assert abs(many - 47.4) < 4 * 2.8 and abs(far - data) < 0.3

    # Techniques 2 to 4 and what the published numbers are; the steps are printed with two digits, FFHQ's with one.
    assert numbers["overlap"]["NCSN, 10 levels"] < 1e-9
    assert abs(numbers["overlap"]["NCSNv2, 232 levels"] - 0.567) < 1e-3
    assert numbers["levels"] == {"0.5": 219, "0.567": 232}
    assert numbers["score_scale"] > 400 and numbers["divided_scale"] < 1.1
    for name, (published, rule) in numbers["alpha"].items():
        assert (abs(published - rule) < 0.5e-7) == (name != "LSUN church")
    one_level, steady, ruled = zip(*numbers["variance"].values())
    assert max(one_level) < 1.06 < 1.07 < min(steady)
    assert steady[2] < ruled[2] - 0.05  # LSUN church: the published step is better than the rule's

    # 20,000 draws of x² have a standard error of 1 %.
    last = numbers["last_variance"]
    assert abs(last["annealed Langevin"] / last["Langevin, computed"] - 1) < 0.04 and abs(last["consistent"] - 1) < 0.04
    assert last["Langevin, computed"] > last["technique 4"] + 0.07

    # The averaged parameters are better, by about a factor of three; by less on another machine's rounding.
    assert numbers["late_error"]["their average"] < 0.7 * numbers["late_error"]["parameters"]

    # Inpainting: what is known is exact, the rest has all four places, with approximate weights (replacement).
    assert numbers["known_exact"]
    shares = numbers["crossings"]
    for name in ("learnt score", "exact score"):
        assert np.abs(np.subtract(shares[name], shares["truth"])).max() < 0.1

    # Each interpolated sample follows the sampler's law: 256 ways of 60 dependent ones, ± 0.04.
    log_prob = numbers["log_prob"]
    assert abs(log_prob["interpolated"] - log_prob["samples"]) < 0.16
    assert log_prob["straight lines"] < log_prob["samples"] - 0.5


def samplers_hold(numbers):
    """04: orders, tolerances, closed forms and published constants; draws are seeded, so the room is for rounding."""
    # Orders of convergence, measured where float32 is not reached yet; and who needs fewest calls for 1 %.
    order, error = numbers["order"], numbers["error"]
    for name, expected in {"Euler in t": 1, "DDIM": 1, "Heun": 2, "DPM-Solver++ 2M": 2}.items():
        assert abs(order[name] - expected) < 0.3
    assert min(order["DPM-Solver++ 3M"], order["UniPC-2"]) > 2.3
    assert error["UniPC-2"]["20"] < 0.3 * error["DDIM"]["20"] < error["Heun"]["20"]
    # 1,000 points to as many others: the energy distance has a standard deviation of about 0.002 when the laws agree.
    law = {name: list(values.values()) for name, values in numbers["law"].items()}
    assert 0.001 < numbers["other_data"] < 0.004
    assert max(law[name][-1] for name in ("DDIM", "Heun", "UniPC-2", "SDE-DPM-Solver++ 2M")) < 0.012
    assert all(values[0] > 2 * values[-1] for values in law.values())
    shaded = 2 * numbers["other_data"]
    reached = {name: min(int(n) for n in of if of[n] < shaded) for name, of in numbers["law"].items()}
    assert {name for name in reached if reached[name] == 10} == {"DPM-Solver++ 2M", "DPM-Solver++ 3M", "UniPC-2"}
    assert {name for name in reached if reached[name] == 40} == {"Heun", "ancestral"}
    assert {reached[name] for name in ("Euler in t", "DDIM", "Euler–Maruyama", "SDE-DPM-Solver++ 2M")} == {20}

    # One equation for all SDEs: within six steps of each other, and at the tolerance two ways add up to.
    calls = np.array(list(numbers["nfe"].values()))
    assert (np.ptp(calls, axis=0) <= 36).all() and (calls[:, 3] <= 121).all() and (np.diff(calls) > 0).all()
    assert (np.array(list(numbers["round_trip"].values())) < [0.2, 0.02, 2e-3, 2e-4, 2e-5]).all()

    # The closed form within what 15 steps add up to, once the prior is the data's own law at t_max.
    assert numbers["exact_off_without_mismatch"] < 1e-3 < numbers["exact_off"] < 0.2
    assert numbers["hutchinson"]["16"] < 2  # errors in standard errors of 16 probes; those of 2 have heavy tails

    # Bits per dimension by the flow and by the closed form; fewer than none of data that were not dequantized.
    bits = numbers["bits"]
    assert abs(bits["flow"] - bits["closed form"]) < 4 * bits["probes' standard error"] + 1e-3
    assert numbers["trap"] < 0 < numbers["best"] < np.log2(17) < numbers["fresh"]
    assert "17 values only" in numbers["refused"]

    # The gap to the entropy closes like 1/N, 0.1 nats at most after 1,000 steps and their standard error of 0.02.
    for gaps in numbers["gap"].values():
        mean, spread = np.array(list(gaps.values())).T
        assert (np.diff(mean) < 4 * np.hypot(spread[1:], spread[:-1])).all() and mean[-1] < 0.18
    assert numbers["gap"]["posterior"]["100"][0] > 3 * numbers["gap"]["transition"]["100"][0]
    np.testing.assert_allclose(numbers["prior_bits"], [2.9112945e-5, 5.87e-10], rtol=0.01)


def equivalence_holds(numbers):
    """03: identities to rounding, the orders of steps in β, one network on two processes."""
    assert numbers["same_points"] < 1e-4  # float32, on points up to 10 divided by α down to 0.3
    # float64: 1/√ᾱ = 157 and 1/(1 − ᾱ) = 1e4 make rounding at most 1e-11.
    assert max(numbers["tweedie"], numbers["noise"], *numbers["posterior_mean"]) < 1e-9
    assert numbers["drawn_noise"] > 0.3  # the drawn noise is not its mean
    assert numbers["gradient"] < 1e-5 and numbers["parameters"] < 1e-2  # float32, 200 steps of Adam
    orders = numbers["orders"]
    assert abs(orders.pop("ancestral, transition variance") - 2) < 0.03
    assert len(orders) == 3 and all(abs(order - 1.5) < 0.03 for order in orders.values())
    assert abs(orders["DDIM, η = 1"] - orders["ancestral, posterior variance"]) < 1e-6
    assert numbers["ddim_is_euler"] < 1e-12
    # float64, on chains from 50: each of 1,000 steps rounds by at most 1e-14
    assert numbers["ladder"] < 1e-12 and numbers["smld"] < 1e-11
    assert abs(numbers["ladder_order"] + 1) < 0.05
    chain, langevin = numbers["ladder_error"].values()
    assert chain < 0.02 < langevin < 0.1
    assert numbers["before"] > 50 and numbers["same_trajectories"] < 1e-10
    # The energy distance of 2,000 points to as many others has a standard error of about 0.001 when the laws agree.
    assert all(distance < 0.01 for distance in numbers["energy_distance"].values())


def ablations_hold(numbers):
    """05: four rows of three seeds. Sliced score matching is about as good as denoising, a larger batch better."""
    assert numbers.keys() == {"dsm 64", "dsm 256", "ssm 64", "ssm 256"}
    assert all(entry[1] >= 0 and entry[2] == 3 for row in numbers.values() for entry in row.values())
    error = {name: row["relative_score_error_by_sigma"] for name, row in numbers.items()}
    assert max(mean for mean, *_ in error.values()) < 0.5  # of 1, the error of no score
    for name in ("dsm", "ssm"):
        (small, a, _), (large, b, _) = error[f"{name} 64"], error[f"{name} 256"]
        assert small > large - 2 * np.hypot(a, b)


def conditioning_holds(numbers):
    """06: Bayes' rule to rounding; what guidance samples; methods against an exact posterior, and half a digit."""
    for exact, clean in numbers["bayes"].values():
        assert exact < 1e-5 and clean > 0.3  # float32; the clean classifier is off by as much as the score
    guided = numbers["guidance"]
    assert guided["w = 1, to the class"] < 0.1 < 0.2 < guided["w = 4, to p(x) p(y | x)⁴"]

    # 4,000 draws: the exact ones are 0.05 apart, shares have a standard error of 0.008.
    found = numbers["inverse"]
    floor, share = (found["exact"][name] for name in ("sliced W2", "first class"))
    assert found["TDS"]["sliced W2"] < 3 * floor and abs(found["TDS"]["first class"] - share) < 0.06
    assert found["DPS"]["sliced W2"] < 3 * floor  # narrow, and as near as the particles
    assert all(found[name]["sliced W2"] > 3 * floor for name in ("RePaint", "ΠGDM", "MMPS"))
    costs = {name: (row["calls"], row["products"]) for name, row in found.items() if name != "exact"}
    assert costs["DPS"] == costs["ΠGDM"] == (1, 1) and costs["MMPS"] == (1, 2)
    assert costs["RePaint"] == (9.1, 0) and costs["TDS"] == (1.1, 1.1)
    # Shares of 64 samples among ten classes, whose posterior is in the hundreds of digits near: 0.1 by chance alone.
    assert all(value < 0.6 for one in numbers["digits"].values() for value in one.values())
    three, eight = numbers["digits"]["3"], numbers["digits"]["8"]
    assert three["exact draws"] < 0.02 and eight["exact draws"] < 0.2  # 0.05 on average, of 64
    assert three["TDS"] < 0.1 < min(three[name] for name in ("ΠGDM", "MMPS", "RePaint"))


def your_own_holds(numbers):
    """07: samples as near as data where a distance looks, and not where one knows the data."""
    distance = numbers["energy_distance"]
    # 1,000 recordings to as many others: a standard deviation of 0.010, of 40 pairs of sets, the largest 0.042.
    assert max(abs(distance[f"training data {i}"]) for i in (1, 2, 3)) < 4 * 0.01 and distance["white noise"] > 0.4
    assert max(distance["samples"], distance["15 steps"]) < 0.02 + 4 * 0.01  # and the learned score's own error
    assert abs(numbers["nearest"]["samples"] / numbers["nearest"]["held-out data"] - 1) < 0.1  # no copies
    # 4,000 recordings of 29 degrees of freedom each have a noise of 0.1 with a standard error of 0.0002.
    assert abs(numbers["noise"]["data"] - 0.1) < 4 * 0.0002 and abs(numbers["noise"]["samples"] - 0.1) < 0.015
    # Of the fit an amplitude has a standard error of 0.1/4: 0.4 is four of them below all.
    assert numbers["outside"]["data"] < 0.001 < 0.02 < numbers["outside"]["samples"] < 0.2
    held_out, train = numbers["loss"]["held-out data"], numbers["loss"]["training data"]
    assert abs(held_out / train - 1) < 0.05
    assert "x.transpose(0, 2, 3, 1) mends it" in numbers["refused"]


HOLDS = {
    "01_score_matching": score_matching_holds,
    "02_ncsn": noise_levels_hold,
    "03_smld_and_ddpm": equivalence_holds,
    "04_samplers_and_likelihood": samplers_hold,
    "05_ablations": ablations_hold,
    "06_conditional_generation": conditioning_holds,
    "07_your_own": your_own_holds,
}


@pytest.mark.slow  # about 40 s each, most of it compilation
@pytest.mark.parametrize("path", NOTEBOOKS, ids=by_name)
def test_the_notebook_runs_and_its_numbers_hold(path, tmp_path):
    """From a clean kernel, without an error, to the same pictures."""
    committed = nbformat.read(path, as_version=4)
    executed = in_new_kernel(nbformat.read(path, as_version=4), tmp_path)
    numbers = numbers_of(executed)
    HOLDS[path.stem](numbers)
    assert len(pictures(executed)) == len(pictures(committed))
    assert numbers.keys() == numbers_of(committed).keys()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=by_name)
def test_the_committed_outputs_are_those_of_one_clean_run(path):
    """Cells executed in order from the first, no error, no warning on stderr, pictures there, and the numbers hold."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]
    assert len(pictures(notebook)) >= 4
    HOLDS[path.stem](numbers_of(notebook))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=by_name)
def test_what_the_notebook_calls_is_there_and_takes_what_it_gives(path):
    """Found without running it: names of the package, the number of their arguments, keywords."""
    nodes = list(ast.walk(code_of(path)))
    names = {}
    imports = [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]
    exec(compile(ast.Module(imports, []), path.name, "exec"), names)
    calls = [node for node in nodes if isinstance(node, ast.Call) and is_of_package(node.func, names)]
    plain = [call for call in calls if not has_stars(call)]
    assert plain
    for call in plain:
        function = eval(ast.unparse(call.func), names)
        inspect.signature(function).bind(*call.args, **{keyword.arg: keyword.value for keyword in call.keywords})


def is_of_package(function, names):
    """Whether `a.b.c` begins with a name imported from the package."""
    root = function
    while isinstance(root, ast.Attribute):
        root = root.value
    found = names.get(root.id) if isinstance(root, ast.Name) else None
    return (getattr(found, "__name__", "") + getattr(found, "__module__", "")).startswith("score_jax")


def has_stars(call):
    """Whether arguments are given by `*` or `**`, whose number is not written."""
    return any(isinstance(given, ast.Starred) for given in call.args) or any(k.arg is None for k in call.keywords)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=by_name)
def test_the_notebook_imports_the_package_and_defines_nothing(path):
    """What a notebook needs is in the library: no def, no class, and no lambda longer than a few lines."""
    nodes = list(ast.walk(code_of(path)))
    assert not [n.name for n in nodes if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)]
    assert all((n.end_lineno or 0) - n.lineno < 5 for n in nodes if isinstance(n, ast.Lambda))
    imported = {(n.module or "").split(".")[0] for n in nodes if isinstance(n, ast.ImportFrom)}
    assert imported == {"score_jax"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=by_name)
def test_cells_are_short(path):
    """Text and code, so that a cell and what comes of it are seen at once."""
    lines = {i: len(cell.source.splitlines()) for i, cell in enumerate(nbformat.read(path, as_version=4).cells)}
    assert {i: n for i, n in lines.items() if n > 20} == {}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=by_name)
def test_outputs_are_at_most_200_kilobytes(path):
    cells = nbformat.read(path, as_version=4).cells
    assert sum(len(json.dumps(cell.get("outputs", []))) for cell in cells) <= 200_000


@pytest.mark.parametrize("path", NOTEBOOKS, ids=by_name)
def test_the_committed_notebook_knows_no_machine(path):
    notebook = nbformat.read(path, as_version=4)
    words = [notebook.metadata.__repr__(), *(text for cell in notebook.cells for text in (cell.source, *texts(cell)))]
    assert not [m.group() for text in words for m in MACHINE_PATH.finditer(text)]


def test_there_are_notebooks_and_each_has_its_check():
    assert NOTEBOOKS and {path.stem for path in NOTEBOOKS} == HOLDS.keys()
