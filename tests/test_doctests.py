"""The examples of docstrings: each prints what it says, and every public name has one.

An example finds these names, as a reader has them after

    import jax, jax.numpy as jnp, numpy as np
    from score_jax import losses, sampling, sde, kernels, metrics, parameterization, distributions, likelihood
    from score_jax import conditioning, adapters, arrays, score

    key = jax.random.key(0)
"""

import doctest
import importlib
import inspect
import pkgutil
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import (
    adapters,
    arrays,
    conditioning,
    distributions,
    kernels,
    likelihood,
    losses,
    metrics,
    parameterization,
    sampling,
    score,
    sde,
)

NAMESPACES = (losses, sampling, sde, kernels, metrics, parameterization, distributions, likelihood, conditioning)
NAMES = {"jax": jax, "jnp": jnp, "np": np, "key": jax.random.key(0)}
NAMES |= {module.__name__.removeprefix("score_jax."): module for module in (*NAMESPACES, adapters, arrays, score)}


def modules():
    """The namespaces, and the modules that they are made of."""
    for namespace in NAMESPACES:
        yield namespace
        for inner in pkgutil.iter_modules(getattr(namespace, "__path__", [])):
            yield importlib.import_module(f"{namespace.__name__}.{inner.name}")


def examples():
    """The docstrings with examples, each with names of its own."""
    finder = doctest.DocTestFinder()
    return [test for module in modules() for test in finder.find(module, globs=NAMES) if test.examples]


EXAMPLES = examples()
# A thousand steps of training; and programs that take a second to compile, whose kind the others show.
SLOW = {
    "metrics.grey_features.train_grey_features",
    *(f"conditioning.{name}" for name in ("daps.daps", "mcgdiff.mcgdiff", "repaint.repaint", "tds.tds", "tds.twisted")),
}


def as_parameter(example):
    """An example under its name, among the slow tests if it is."""
    name = example.name.removeprefix("score_jax.")
    return pytest.param(example, id=name, marks=[pytest.mark.slow] if name in SLOW else [])


@pytest.mark.parametrize("example", [as_parameter(example) for example in EXAMPLES])
def test_an_example_prints_what_it_says(example):
    said: list[str] = []
    found = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example, out=said.append, clear_globs=False)
    assert not found.failed, "".join(said)


def public(namespace):
    """The functions and classes that `__all__` names, itself or by a module; without it those that are its own."""
    defined = [name for name, value in vars(namespace).items() if inspect.getmodule(value) is namespace]
    for name in getattr(namespace, "__all__", defined):
        value = getattr(namespace, name)
        if inspect.ismodule(value):
            yield from public(value)
        elif not name.startswith("_") and (inspect.isfunction(value) or inspect.isclass(value)):
            yield value


def returned(function):
    """The classes that a function returns, alone or in a tuple."""
    hint = typing.get_type_hints(function).get("return")
    return {value for value in (hint, *typing.get_args(hint)) if inspect.isclass(value)}


@pytest.mark.parametrize("namespace", NAMESPACES, ids=lambda module: module.__name__.removeprefix("score_jax."))
def test_every_public_name_has_an_example(namespace):
    """But for what a function returns, which the example of the function shows."""
    values, shown = {*public(namespace)}, {test.name for test in EXAMPLES}
    results = set().union(*(returned(value) for value in values if inspect.isfunction(value)))
    wanted = {f"{value.__module__}.{value.__qualname__}" for value in values - results}
    assert wanted
    assert sorted(wanted - shown) == []
