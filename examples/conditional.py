"""From a score to a posterior, beside the exact one: `python examples/conditional.py [FOLDER]`, 29 core-seconds.

Of x in the plane only y = x_1 + x_2/2 + noise is observed. DPS, ΠGDM and MMPS make a posterior score of the prior's
and of the operator; TDS weighs particles; `conditioning` has more. The priors are one Gaussian and a mixture of three:
their scores are known at every noise level and stand here for a trained one, since any `(x, t) -> score` will do.
p(x | y) is a mixture again (Bayes' rule), so that what each method gets wrong is a number. On a Gaussian ΠGDM, told its
standard deviation, and MMPS are exact; of modes far apart they keep too much of those that y speaks against, and TDS
does not.

Prints how far 4,000 samples are from the exact mean, the exact covariance and exact draws, beside other exact draws,
and draws conditional.png, of the mixture.
"""

import sys

import jax
import jax.numpy as jnp

from score_jax import conditioning, distributions, metrics, plotting, sampling, sde
from score_jax.conditioning.operators import Linear

GAUSSIAN = distributions.GaussianMixture(jnp.ones(1), jnp.array([[0.5, -0.5]]), jnp.array([0.8]))
THREE = distributions.GaussianMixture(
    jnp.array([0.5, 0.3, 0.2]), jnp.array([[1.5, 1.0], [-1.5, 1.0], [0.0, -1.5]]), jnp.array([0.1, 0.2, 0.1])
)
process = sde.VP()
operator, noise_std, observed = Linear(jnp.array([[1.0, 0.5]])), 0.5, jnp.array([[0.4]])

SAMPLERS = {  # of a score of p(x), and the standard deviation of x: samplers of p(x | y)
    "no condition": lambda score_fn, std: sampling.ancestral(process, score_fn),
    "DPS": lambda score_fn, std: with_score(conditioning.dps, score_fn),
    "ΠGDM": lambda score_fn, std: with_score(conditioning.pigdm, score_fn, data_std=std),
    "MMPS": lambda score_fn, std: with_score(conditioning.mmps, score_fn),
    "TDS": lambda score_fn, std: conditioning.tds(
        process, score_fn, operator, observed, noise_std=noise_std, data_std=std
    ),
}


def with_score(method, score_fn, **options):
    """Returns a sampler, any one, along a method's approximation of ∇ log p_t(x | y)."""
    posterior_score = method(process, score_fn, operator, observed, noise_std=noise_std, **options)
    return sampling.ancestral(process, posterior_score)


def moments(mixture):
    """Returns mean and covariance."""
    v = mixture.variances
    covariances = v if jnp.ndim(v) == 3 else v[:, None, None] * jnp.eye(2)[None]
    mean = mixture.weights @ mixture.means
    second = covariances + mixture.means[:, :, None] * mixture.means[:, None, :]
    return mean, jnp.einsum("k,kij->ij", mixture.weights, second) - jnp.outer(mean, mean)


def sampled(prior, names, *, n, steps):
    """Returns samples of p(x | y) by each method."""
    score_fn, std = distributions.score_of(prior, process), jnp.sqrt(jnp.trace(moments(prior)[1]) / 2)
    noise, ts = process.prior_sample(jax.random.key(0), (n, 2)), sampling.grids.log_snr(process, steps + 1)
    draw = lambda of: jax.jit(lambda x: sampling.sample(jax.random.key(1), of(score_fn, std), x, ts))(noise)
    return {name: draw(SAMPLERS[name]) for name in names}


@jax.jit
def distances(samples, posterior, draws):
    """Returns how far samples are from a posterior: of its mean, its covariance, its draws."""
    mean, covariance = moments(posterior)
    return {
        "mean": jnp.linalg.norm(samples.mean(0) - mean),
        "covariance": jnp.linalg.norm(jnp.cov(samples.T) - covariance),
        "sliced W2": metrics.sliced_wasserstein(jax.random.key(2), samples, draws),
    }


def compare(prior, names=tuple(SAMPLERS), *, n=4000, steps=400):
    """Prints the distances of each method's samples, and returns these and the samples."""
    posterior = prior.posterior(operator.matrix, observed[0], noise_std)
    draws, others = (posterior.sample(jax.random.key(seed), n) for seed in (3, 4))
    found = sampled(prior, names, n=n, steps=steps) | {"exact draws": others}
    off = {name: jax.tree.map(float, distances(x, posterior, draws)) for name, x in found.items()}
    print(f"{len(prior.weights)} component(s):     mean   covariance   sliced W2   (n = {n})")
    for name, of in off.items():
        print(f"{name:16}{of['mean']:10.3f}{of['covariance']:13.3f}{of['sliced W2']:12.3f}")
    return off, found


def main(folder="."):
    compare(GAUSSIAN)
    _, found = compare(THREE)
    plotting.save_figure(plotting.clouds(found, extent=(-3, 3, -3, 3)), f"{folder}/conditional.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
