"""Replacement: from a sampler of p(x) to one of p(x | y), for y = A x observed without noise.

It is the inpainting of Song & Ermon 2019 (algorithm 2) and Song et al. 2021 (appendix I.2), and with `Gray` the
colorization of the latter (appendix I.3, whose decoupled channels are the spectrum): at every noise level the observed
part of x, A⁺ A x, is overwritten by that of the observation noised to that level. It is an approximation: the rest is
moved by its score given a noised observation that knows nothing of the rest, which is right for small σ only. So

- within a mode, Langevin steps at the last levels put right what the first ones did; ancestral and ODE steps don't take
  the time, and stay biased however fine the grid (on a Gaussian with correlation 0.8 they find 0.4 to 0.6 of the shift
  of the conditional mean, 60 levels of 20 Langevin steps 0.98);
- between modes, weights are settled at the σ where the modes part, and by what y says through noise of that σ: modes
  that lie far apart in the unobserved part keep nearly their prior weights, whatever y says.
"""

from collections.abc import Callable

from score_jax import arrays
from score_jax.conditioning.observed import require_problem
from score_jax.conditioning.operators import Decomposed, pseudo_inverse, require_decomposed
from score_jax.sampling import Sampler
from score_jax.sampling.base import one_step, require_one_step
from score_jax.sde import SDE
from score_jax.types import Array, Key


def impose(operator: Decomposed, x: Array, y: Array) -> Array:
    """Returns x with the observation put in, x − A⁺ A x + A⁺ y: exactly y where a mask observes it.

    After `sde.denoise`, which moves all of x, it makes the end exact.

    Args:
      operator: A.
      x: `(B, *S)`.
      y: the observation, `(B, …)`, or `(1, …)` for one that all rows share.

    Examples:
      >>> operator = conditioning.operators.Mask(np.array([1, 0]))
      >>> print(conditioning.impose(operator, jnp.array([[1.0, 2.0]]), jnp.array([[9.0, 0.0]])))
      [[9. 2.]]
    """
    require_decomposed("impose", operator)
    return x - pseudo_inverse(operator, operator(x)) + pseudo_inverse(operator, y)


def lifted(owner: str, operator: Decomposed, y: Array) -> Callable[[Array], Array]:
    """Returns x -> A⁺ y of its shape and dtype, which is checked when these are known."""
    require_decomposed(owner, operator)
    fitting = require_problem(owner, operator, y, 0)
    return lambda x: pseudo_inverse(operator, fitting(x))


def replacement(sampler: Sampler, sde: SDE, operator: Decomposed, y: Array) -> Sampler:
    """Puts the observation into x at every step of `sampler`: noised to the level before it, exactly after it.

    A step t → s first sets the observed part to α_t y + σ_t z with fresh z, whatever x held there, then takes the
    sampler's step, then sets it to α_s y. So the start needs no care, every x that `sample` returns or traces agrees
    with y, and the last update of the rest is kept (released code returns x before it, or lets the observed part drift
    after it). Then `impose(operator, sde.denoise(x, …), y)`.

    The observation is renewed once a step of `sampler`. To renew it before every Langevin step, as published, give
    `annealed_langevin` one step at each point of a grid that has each level T times:

        ts = grids.levels(sde, jnp.repeat(sigmas, T))
        replacement(annealed_langevin(sde, score_fn, step_size=ε, n_steps=1), sde, Mask(mask), y)

    With T steps inside, the observed part walks with the rest and is forgotten within a level. A predictor–corrector is
    best wrapped as a whole.

    Args:
      sampler: a one-step sampler.
      sde: its noising process.
      operator: A, with its singular values, such as `Mask`.
      y: the observation in the units of x0, `(B, …)`, or `(1, …)` for one that all rows share.

    Raises:
      InputError: for a multistep sampler, an operator without singular values, y that the operator or x doesn't fit.

    Examples:
      Data N(0, I) of which the first of two elements was seen, 3; the other has its own law, N(0, 1).

      >>> edm, score, y = sde.EDM(0.01, 10.0), lambda x, t: -x / (1 + t**2), jnp.array([[3.0, 0.0]])
      >>> operator = conditioning.operators.Mask(np.array([1, 0]))
      >>> sampler = conditioning.replacement(sampling.heun(edm, score), edm, operator, y)
      >>> x = sampling.sample(key, sampler, edm.prior_sample(key, (4096, 2)), sampling.grids.karras(edm, 40))
      >>> print(f"{x[:, 0].mean():.1f} {x[:, 1].std():.1f}")
      3.0 1.0
    """
    require_one_step("replacement", sampler)
    known = lifted("replacement", operator, y)

    def step(key: Key, x: Array, t: Array, s: Array) -> Array:
        x0 = known(x)
        key_noise, key_step = arrays.split(key)
        x = impose(operator, x, operator(sde.perturb(key_noise, x0, t)[0]))
        x = sampler.step(key_step, sampler.init(x), t, s).x
        return impose(operator, x, operator(arrays.expand_right(sde.alpha(s), x) * x0))

    return one_step(step, sampler.calls)
