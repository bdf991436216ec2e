"""One network of every published family, as its config builds it, but of two levels and eight features: it can learn.

The loss is one fixed function: the digits, noise levels and noise are the same at every step.
"""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import ddpm, edm, ncsn, ncsnv2, score_sde
from score_jax import arrays
from score_jax.adapters import linen
from score_jax.lab.build import data as of_data
from score_jax.lab.build import network as of_network
from score_jax.lab.build import noise as of_noise
from score_jax.lab.build import objective as of_objective
from score_jax.lab.build.checks import with_derived
from score_jax.networks.refinenet import LAYOUTS, Layout, Stage
from score_jax.score import ScoreModel
from tests.helpers import key
from tests.networks.filling import filled, jit

TWO_LEVELS = {"channels": 8, "multipliers": (1, 2), "blocks": 1, "attention": (1,)}
FAMILIES = {
    "ncsn": (ncsn, "cifar10", {}),
    "ncsnv2": (ncsnv2, "cifar10", {}),
    "ddpm": (ddpm, "cifar10", {}),
    "ddpmpp": (score_sde, "vp_ddpmpp_continuous", {}),
    "ncsnpp": (score_sde, "ve_church", {}),  # filtered, image and output on both levels
    "ncsnpp_residual": (score_sde, "ve_ncsnpp_continuous", {}),
    "song_unet": (edm, "cifar10_cond", {}),
    "adm": (edm, "imagenet64", {}),
}
# Layers of another row's network in other places, or (ncsn, adm) whose gradients tests/networks look at
REPEATED = ("ncsn", "ncsnv2", "ddpm", "ddpmpp", "ncsnpp_residual", "song_unet", "adm")
STEPS = 4
N = 8


def reduced(module, variant, fields):
    """The config's network on two levels; of NCSN, two of the four stages."""
    config = module.get_config(variant)
    config.data.update(name="digits", size=0)
    network = config.network[config.network.name]
    network.update(
        TWO_LEVELS | fields if config.network.name in of_network.UNETS else {"features": 8, "depth": "shallow"}
    )
    config.times.discrete.n = 4
    return config


def starting(module, source, of_unet):
    """Variables of NumPy's, zero where published U-Nets begin so: the last layers of blocks, and the heads."""
    label = np.zeros(1, np.int32) if source.num_classes else None
    variables = filled(module, np.zeros((1, *source.shape), np.float32), np.ones(1, np.float32), label)
    if "sigmas" in variables.get("fixed", {}):
        variables["fixed"]["sigmas"] = np.float32(module.sigmas)
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables["params"]):
        if of_unet and (path[-2].key == "conv_1" or path[-2].key.startswith("out")):
            leaf[...] = 0
    return variables


def losses_of(config):
    """Returns the start of the parameters and `params -> (loss, loss of a network whose output is zero), gradient`."""
    source = of_data.data(config).train
    sde = of_noise.sde(with_derived(config, source))
    network, meaning = of_network.network(config, sde, source), of_network.output(config, sde)
    variables = starting(network, source, config.network.name in of_network.UNETS)
    batch = source.batch(np.arange(N))
    model = ScoreModel(variables, sde, linen(network), meaning, of_network.condition(config, sde))
    objective, times = of_objective.objective(config, sde, None), of_noise.draw_times(config, sde)

    def loss(params):
        keys = arrays.example_keys(key(), N)
        x0 = of_data.preparation(config, source)(keys, batch["x"])
        score_fn = model.replace(variables=variables | {"params": params}).conditioned(label=batch.get("label"))
        silent = lambda x, t: meaning.to_score(sde, x, t, jnp.zeros_like(x))
        return tuple(objective(keys, s, x0, times).mean() / x0[0].size for s in (score_fn, silent))

    return variables["params"], jit(jax.value_and_grad(loss, has_aux=True))


def adam(theta, gradients, n, rate=2e-3):
    """The n-th step (from 1) of Adam on lists of arrays, from all gradients so far (Kingma & Ba 2015, algorithm 1)."""

    def step(p, *g):
        first = sum(0.1 * 0.9 ** (n - 1 - i) * v for i, v in enumerate(g)) / (1 - 0.9**n)
        second = sum(0.001 * 0.999 ** (n - 1 - i) * v**2 for i, v in enumerate(g)) / (1 - 0.999**n)
        return np.asarray(p - rate * first / (np.sqrt(second) + 1e-8), p.dtype)

    return [step(p, *g) for p, *g in zip(theta, *gradients, strict=True)]


@pytest.mark.parametrize(
    ("module", "variant", "fields"),
    [pytest.param(*v, id=k, marks=[pytest.mark.slow] * (k in REPEATED)) for k, v in FAMILIES.items()],
)
def test_every_family_learns_in_a_few_steps_with_all_its_parameters(module, variant, fields, monkeypatch):
    monkeypatch.setitem(LAYOUTS, "shallow", Layout((Stage(1, down=False), Stage(2)), (2, 1)))
    config = reduced(module, variant, fields)
    params, evaluate = losses_of(config)
    names, tree = [path for path, _ in jax.tree_util.tree_leaves_with_path(params)], jax.tree.structure(params)
    theta, losses, gradients = jax.tree.leaves(params), [], []
    for n in range(STEPS + 1):
        (loss, silent), gradient = evaluate(jax.tree.unflatten(tree, theta))
        losses.append(float(loss))
        gradients.append([np.asarray(g) for g in jax.tree.leaves(gradient)])
        assert np.isfinite(loss) and all(np.isfinite(g).all() for g in gradients[-1])
        theta = adam(theta, gradients, n + 1)
    assert all(after < before for before, after in pairwise(losses))
    assert losses[-1] < 0.95 * losses[0]  # measured: 0.92 at most
    # What the loss doesn't depend on has a gradient of zero exactly. From layers at zero it takes the head one step to
    # open, the last layers of the blocks another, their first ones a third, and then the embedding moves.
    reached = [{i for i, g in enumerate(gs) if g.any()} for gs in gradients]
    assert not [jax.tree_util.keystr(names[i]) for i in set(range(len(names))) - reached[3]]
    if config.network.name in of_network.UNETS:
        assert losses[0] == pytest.approx(float(silent), rel=1e-6)
        assert {names[i][0].key[:3] for i in reached[0]} == {"out"} and len(reached[0]) < len(reached[1]) < len(names)
    else:
        assert reached[0] == reached[3]
