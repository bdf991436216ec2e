"""The PyTorch networks that speed is compared with compute what the Flax ones do, forwards and backwards."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax.networks import DivideBySigma, GaussianFourier, adm, ddpm, ddpmpp, ncsnpp, song_unet
from score_jax.types import InputError
from tests.networks.filling import filled, jit

torch = pytest.importorskip("torch")

from benchmarks.checks.torch_networks import load, unet  # noqa: E402

# Four channels a group: with one, a norm would take out the embedding and the biases before it.
TINY = {"channels": 16, "multipliers": (1, 2), "blocks": 1, "attention": (1,), "groups": 4}
SKIPS = {"multipliers": (1, 2, 1), "input_path": "skip", "output_path": "skip", "input_combine": "concat"}
RESIDUAL = {"multipliers": (1, 2, 1), "resampling": "conv", "output_path": "residual", "outputs": 2}
NETWORKS = {
    "ddpm": ddpm(**TINY),
    "ddpmpp": ddpmpp(**TINY),
    "ncsnpp": ncsnpp(**TINY),
    "song_unet": song_unet(**TINY, num_classes=3),
    "adm": adm(**TINY | {"head_channels": 16}, num_classes=3),
    "ncsnpp, images at all resolutions": ncsnpp(**TINY | SKIPS),
    # The taps are asymmetric, so that none can be the wrong way around.
    "ncsnpp, convolutions between resolutions": ncsnpp(**TINY | RESIDUAL | {"fir": (1.0, 2.0, 5.0, 3.0)}),
    "ddpm, padded as diffusers does": ddpm(**TINY | {"stride_padding": 1, "dropout": 0.1}),
}
PUBLISHED = {"ddpm": ddpm(), "ddpmpp": ddpmpp(), "ncsnpp": ncsnpp(), "song_unet": song_unet(), "adm": adm()}


def inputs(module):
    """Returns `(x, cond, label)` for the Flax network; one of the two labels is "no class"."""
    x = np.random.default_rng(1).normal(size=(2, 8, 8, 3)).astype(np.float32)
    return x, np.array([0.7, 2.5], np.float32), np.array([1, -1], np.int32) if module.num_classes else None


def loaded(module, variables):
    network = unet(module, 3).eval()
    load(network, variables)
    return network


def channels_first(x):
    return torch.tensor(x).permute(0, 3, 1, 2)


def size(network):
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("module", NETWORKS.values(), ids=NETWORKS)
def test_outputs_and_gradients_are_those_of_flax(module):
    x, cond, label = inputs(module)
    variables = filled(module, x, cond, label)
    noise = np.random.default_rng(2).normal(size=(2, 8, 8, 3 * module.outputs)).astype(np.float32)

    def product(params):
        out = module.apply({**variables, "params": params}, x, cond, label)
        return jnp.sum(out * noise), out

    (_, expected), gradient = jit(jax.value_and_grad(product, has_aux=True))(variables["params"])
    network = loaded(module, variables)
    out = network(channels_first(x), torch.tensor(cond), None if label is None else torch.tensor(label))
    error = out.detach().permute(0, 2, 3, 1).numpy() - np.asarray(expected)
    assert abs(error).max() < 1e-5 * np.std(expected)

    (out * channels_first(noise)).sum().backward()
    slopes = dict(loaded(module, {**variables, "params": gradient}).named_parameters())
    for name, parameter in network.named_parameters():
        # The softmax does not see a bias of keys: its gradient is rounding error.
        scale = slopes[name.replace("attention.k.bias", "attention.q.bias")].norm()
        assert (parameter.grad - slopes[name]).norm() < 1e-4 * scale, name


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_networks_have_as_many_parameters(name):
    module = PUBLISHED[name]
    x, cond = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.float32)
    params = jax.eval_shape(module.init, jax.random.key(0), x, cond)["params"]
    with torch.device("meta"):
        parameters = size(unet(module, 3))
    assert parameters == sum(leaf.size for leaf in jax.tree.leaves(params))
    assert name != "ddpm" or parameters == 35_746_307


def without(params):
    return {name: layers for name, layers in params.items() if name != "norm"}


def with_more(params):
    return {**params, "table": np.zeros(3, np.float32)}


def misshapen(params):
    return {**params, "norm": {"scale": np.ones((2, 16), np.float32), "bias": params["norm"]["bias"]}}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (without, r"2 parameters are missing, such as norm\.bias"),
        (with_more, "1 parameters are left over, such as table"),
        (misshapen, r"1 parameters are of another shape, such as norm\.weight"),
    ],
)
def test_loading_refuses_what_does_not_fit(change, complaint):
    module = NETWORKS["ddpm"]
    variables = filled(module, *inputs(module))
    network = unet(module, 3)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(InputError, match=complaint):
        load(network, {"params": change(variables["params"])})
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize(
    "fields",
    [
        {"dtype": jnp.bfloat16},
        {"remat": True},
        {"fir": (1.0, 2.0, 1.0)},
        {"embedding": None},
        {"embedding": GaussianFourier(32, of=jnp.sqrt)},
        {"output_scale": DivideBySigma((1.0, 0.1))},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_fields_without_counterpart_are_refused(fields):
    with pytest.raises(InputError, match=f"no such {next(iter(fields))}:"):
        unet(ncsnpp(**TINY | fields), 3)


def test_labels_need_classes():
    network = unet(NETWORKS["ddpm"], 3)
    with pytest.raises(InputError, match="num_classes > 0"):
        network(torch.zeros(2, 3, 8, 8), torch.ones(2), torch.zeros(2, dtype=torch.int64))
