"""The textbook's claims hold, planted faults break them, and the command and its page say so."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from experiments import claims
from experiments.claims import __main__ as command
from experiments.claims import claim, score_matching
from score_jax import arrays, conditioning, kernels, losses, noise_levels, sampling, sde
from tests.helpers import often

ROOT = Path(__file__).resolve().parent.parent
true_ism, true_annealed = losses.implicit_score_matching, sampling.annealed_langevin
true_diffusion_loss = losses.diffusion_loss
true_guidance, true_classifier_free = conditioning.classifier_guidance, conditioning.classifier_free
true_overlap, true_step_size = noise_levels.overlap, noise_levels.step_size

IDS = [
    f"{letter}{i}" for letter, n in {"A": 9, "B": 9, "C": 7, "D": 6, "E": 8, "F": 3}.items() for i in range(1, n + 1)
]

# Statements that the literature often gets wrong: their checks evaluate the wrong form too.
WITH_WRONG_FORMS = {"A1", "A2", "A3", "A4", "A5", "A6", "A7", "B1", "B2", "B3", "B4", "B5", "B7", "B8", "B9"} | {
    id for id in IDS if id[0] in "CDEF"
}

# C4 trains a network for 800 steps; the others take one to five seconds, and `make claims` checks all of them.
LONG = (
    "A7",
    "A9",
    "B1",
    "B4",
    "B5",
    "B7",
    "B8",
    "B9",
    "C1",
    "C2",
    "C3",
    "C4",
    "C5",
    "C6",
    "C7",
    "D1",
    "D3",
    "D5",
    "D6",
)
LONG += ("E2", "E3", "E4", "E7", "E8", "F1", "F2", "F3")
MARKED = often(IDS, {*IDS} - {*LONG})


def test_every_claim_of_sections_a_to_f_is_there():
    assert [check.id for check in claims.select([])] == IDS


@pytest.mark.parametrize("id", MARKED)
def test_claim_holds(id):
    measured = claims.CLAIMS[id]()
    assert measured.verdict == "holds", claims.failures(measured)
    assert (id in WITH_WRONG_FORMS) == any(m.relation == "wrong" for m in measured.measurements)


def faulty_energy_score(energy_fn):
    return lambda x: jax.grad(lambda x: energy_fn(x).sum())(x)


def ism_without_half(score_fn, x, *, key=None):
    return true_ism(score_fn, x) + 0.5 * (score_fn(x) ** 2).sum(1)


def esm_without_half(score_fn, x, target_score_fn):
    return ((score_fn(x) - target_score_fn(x)) ** 2).sum(1)


def ssm_by_exact_trace(key, score_fn, x):
    return true_ism(score_fn, x)


def level_step_without_square(sde, score_fn, *, step_size, n_steps):
    def step(key, state, t, s):
        scaled = step_size * sde.sigma(s) / sde.sigma(sde.t_min)
        return type(state)(sampling.langevin(key, lambda x: score_fn(x, s), state.x, step_size=scaled, n_steps=n_steps))

    return true_annealed(sde, score_fn, step_size=step_size, n_steps=n_steps)._replace(step=step)


def diffusion_loss_without_half(*args, **how):
    return 2 * true_diffusion_loss(*args, **how)


def ancestral_by_alpha_bar(sde, score_fn, *, variance="posterior"):
    def step(key, x, t, s):
        added, scale = (arrays.expand_right(v, x) for v in (sde.variance(t), sde.alpha(s) / sde.alpha(t)))
        return scale * (x + added * score_fn(x, t))

    return sampling.base.one_step(step)


def noise_of_root_sigma(sde, key, x0, t):
    eps = arrays.normal(key, x0)
    return arrays.expand_right(sde.alpha(t), x0) * x0 + jnp.sqrt(arrays.expand_right(sde.sigma(t), x0)) * eps, eps


def transition_without_alpha(sde, t, s):
    return sde.alpha(t) / sde.alpha(s), sde.variance(t) - sde.variance(s)


def reverse_diffusion_by_alpha(sde, score_fn):
    def step(key, x, t, s):
        alpha, variance = (arrays.expand_right(v, x) for v in sde.transition(t, s))
        return alpha * x + variance * score_fn(x, t) + jnp.sqrt(variance) * arrays.normal(key, x)

    return sampling.base.one_step(step)


def flow_without_half(sde, score_fn):
    def step(key, x, t, s):
        drift, diffusion = (arrays.expand_right(v, x) for v in (sde.drift(t), sde.diffusion(t)))
        return x - (drift * x - diffusion**2 * score_fn(x, t)) * (t - s)

    return sampling.base.one_step(step)


def guidance_of_half_the_gradient(score_fn, log_prob_fn):
    return true_guidance(score_fn, log_prob_fn, 0.5)


def guidance_from_the_conditional_score_on(conditional, unconditional, scale):
    return true_classifier_free(conditional, unconditional, 1 + scale)


FAULTS = {
    "the energy's gradient without its minus": ("A3", score_matching, "energy_score", faulty_energy_score),
    "implicit score matching without its half": ("A5", losses, "implicit_score_matching", ism_without_half),
    "explicit score matching without its half": ("A6", losses, "explicit_score_matching", esm_without_half),
    "sliced score matching by the exact trace": ("A8", losses, "sliced_score_matching", ssm_by_exact_trace),
    "a Gaussian target over sigma": (
        "B2",
        kernels.Gaussian,
        "score",
        lambda kernel, x_tilde, x: (x - x_tilde) / kernel.sigma,
    ),
    "a Laplace target without its scale": (
        "B3",
        kernels.Laplace,
        "score",
        lambda kernel, x_tilde, x: -jnp.sign(x_tilde - x),
    ),
    "a level's step proportional to sigma": ("C6", sampling, "annealed_langevin", level_step_without_square),
    "an overlap with √D for √(2D)": ("D2", noise_levels, "overlap", lambda r, dims: true_overlap(r, dims // 2)),
    "Tweedie with σ for σ²": (
        "E1",
        sde.SDE,
        "denoise",
        lambda sde, x, t, s: (x + arrays.expand_right(sde.sigma(t), x) * s) / arrays.expand_right(sde.alpha(t), x),
    ),
    "an ancestral step with 1 − ᾱ for β": ("E2", sampling, "ancestral", ancestral_by_alpha_bar),
    "ancestral sampling by a diffusion without its drift": ("E3", sde.SDE, "transition", transition_without_alpha),
    "noise of √σ": ("E4", sde.SDE, "perturb", noise_of_root_sigma),
    "σ_t² − σ_s² for the transition's variance": ("E5", sde.SDE, "transition", transition_without_alpha),
    "reverse diffusion with α for 2 − α": ("E7", sampling, "reverse_diffusion", reverse_diffusion_by_alpha),
    "the probability flow without its half": ("E8", sampling, "euler", flow_without_half),
    "a diffusion loss without its half": ("E6", losses, "diffusion_loss", diffusion_loss_without_half),
    "guidance by half the gradient": ("F1", conditioning, "classifier_guidance", guidance_of_half_the_gradient),
    "a classifier by half its gradient": ("F2", conditioning, "classifier_guidance", guidance_of_half_the_gradient),
    "a scale that counts from the conditional score on": (
        "F3",
        conditioning,
        "classifier_free",
        guidance_from_the_conditional_score_on,
    ),
    "α for the step size ε": ("D4", noise_levels, "step_size", lambda *ladder: true_step_size(*ladder) / 2),
}


# Claims of two seconds and more: that these hold is among the slow tests too, and in `make claims`.
SLOW = {"E3", "E4", "E7", "E8", "F1", "F2", "F3", "B5", "C7", "B9", "D1", "D5"}


@pytest.mark.parametrize(
    "fault", [pytest.param(f, marks=pytest.mark.slow) if FAULTS[f][0] in SLOW else f for f in FAULTS]
)
def test_a_planted_fault_breaks_its_claim(fault, monkeypatch):
    id, owner, name, faulty = FAULTS[fault]
    monkeypatch.setattr(owner, name, faulty)
    assert claims.CLAIMS[id]().verdict == "fails"


def test_a_wrong_form_that_comes_out_right_fails_the_claim():
    right, missed = claim.wrong("form", 1.0, 1.05, 0.1), claim.wrong("form", 1.0, 2.0, 0.1)
    assert claim.Claim("X1", "", "", [missed]).verdict == "holds"
    assert claim.Claim("X1", "", "", [missed, right]).verdict == "fails"


@pytest.mark.parametrize("make", [claim.equal, claim.wrong, lambda *a: claim.at_most(*a[:3])])
def test_nan_never_holds(make):
    assert not make("nan", float("nan"), 1.0, 0.5).holds


def test_the_command_writes_the_page_and_exits_0(tmp_path, capsys):
    page = tmp_path / "new" / "claims.md"
    assert command.main(["--only", "A3", "A5", "--page", str(page)]) == 0
    printed, written = capsys.readouterr().out, page.read_text()
    assert "[ 1/2] A3 holds" in printed
    assert "[ 2/2] A5 holds" in printed
    assert "2 of 2 claims hold" in written
    assert "| uniform: J_ESM − J_ISM − C | -1.9093 | -1.9093 ± 1e-09 | holds | exact |" in written
    assert "| wrong form: E_p[x·s], s = −∇E (β forgotten) | -0.4 | not -1 ± 0.5 | fails | exact |" in written


def test_the_command_exits_1_when_a_claim_fails(monkeypatch, capsys):
    monkeypatch.setattr(score_matching, "energy_score", faulty_energy_score)
    assert command.main(["--only", "A3"]) == 1
    printed = capsys.readouterr().out
    assert "A3 fails" in printed
    assert "not as expected: E_p[x·s], s = −β∇E: measured 1, expected -1 ± 1e-09" in printed


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--only", "A44"], "no claim is called A44; there are A1, A2"),
        (["--only", "A3", "--page", "/dev/null/x"], "cannot be written"),
        (["--only", "A3", "--page", "/tmp"], "cannot be written: Is a directory"),
    ],
)
def test_bad_input_is_one_line(arguments, message, capsys):
    assert command.main(arguments) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1


def test_the_page_in_docs_is_of_these_claims_and_all_hold():
    page = (ROOT / "docs" / "claims.md").read_text()
    assert re.findall(r"^### (\w+): (\w+)$", page, re.M) == [(id, "holds") for id in IDS]
    for check in claims.CLAIMS.values():
        assert check.statement in page
