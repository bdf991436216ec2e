"""From settings to an experiment: what knows names, and the last that sees a ConfigDict.

    experiment(config) -> Experiment;  of_checkpoint(config, published) -> Trained

Each file makes one part. A name is looked up in one table, or is the user's own (`lab.own`), and gets the options of
the config's section of that name: adding an SDE, a network, … to the settings is a row here and a section there.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import optax
from ml_collections import ConfigDict

from score_jax import data as datasets
from score_jax.data import Source
from score_jax.lab import memory, own, records, run, settings, trial
from score_jax.lab.build import data as of_data
from score_jax.lab.build import evaluation as of_evaluation
from score_jax.lab.build import guidance as of_guidance
from score_jax.lab.build import handed
from score_jax.lab.build import mesh as of_mesh
from score_jax.lab.build import network as of_network
from score_jax.lab.build import noise as of_noise
from score_jax.lab.build import objective as of_objective
from score_jax.lab.build import sampling as of_sampling
from score_jax.lab.build import training as of_training
from score_jax.lab.build.checks import check_combinations, check_threshold, with_derived
from score_jax.lab.build.described import summary
from score_jax.lab.build.ranges import check_numbers
from score_jax.lab.build.variants import Variants, variants
from score_jax.lab.experiment import Before, Data, Examples, Experiment, Run, Sampling, Trained
from score_jax.lab.measures import Measure
from score_jax.lab.published import Published
from score_jax.lab.sharing import Shared
from score_jax.losses.times import Times
from score_jax.losses.weighting import Weighting
from score_jax.parameterization import Parameterization
from score_jax.sampling import Sampler
from score_jax.sde import SDE
from score_jax.training import Placement
from score_jax.training.logging import LoggerFactory
from score_jax.training.step import Objective
from score_jax.types import Array, ArrayLike, InputError, ScoreFn, is_on


def experiment(
    config: ConfigDict,
    *,
    before: Before | None = None,
    data: Source | None = None,
    sde: SDE | None = None,
    parameterization: Parameterization | None = None,
    network: Any = None,
    objective: Callable[..., Array] | None = None,
    weighting: Weighting | None = None,
    times: Times | None = None,
    sampler: Callable[[SDE, ScoreFn], Sampler] | None = None,
    optimizer: optax.GradientTransformation | None = None,
    measures: Mapping[str, Measure] | None = None,
    loggers: Sequence[LoggerFactory] | None = None,
    shared: Shared | None = None,
    initial: of_network.Initial | None = None,
) -> Experiment:
    """Makes everything that training, sampling and measuring need; nothing is written.

    Args:
      config: settings, as `lab.settings.get_config` lists them.
      before: what the run folder holds already (`run.before`), whose numbers stay.
      data: examples in place of those that the config names, as are all of the following objects.
      sde: the noising process.
      parameterization: what the network's output means.
      network: a Linen or NNX module, or `adapters.plain(...)`.
      objective: of the form of `losses.diffusion_loss`.
      weighting: `(sde, t) -> (B,)`.
      times: `(key, sde, n) -> (t, weight)`.
      sampler: `(sde, score_fn) -> Sampler`.
      optimizer: an optax transformation, clipping and learning rate included.
      measures: `(measured) -> numbers` by name.
      loggers: `(workdir, start) -> Logger`; as they change no number, config.json doesn't tell of them.
      shared: of experiments that are made of names alone: data are read, and programs compiled, once for all of them.
      initial: `(network, key, x, cond, label) -> variables`, in place of parameters drawn from the seed: shapes alone
        (`jax.eval_shape`) let nothing be run, but a program be compiled, for a machine with more memory.

    Raises:
      InputError: of a setting, of training or sampling, that cannot be used; of an object that is of another kind, or
        that raises while it is tried by shapes.
    """
    given = {"data": data, "sde": sde, "parameterization": parameterization, "network": network}
    given |= {"objective": objective, "weighting": weighting, "times": times, "sampler": sampler}
    given |= {"optimizer": optimizer}
    handed.require_kinds(given, measures, loggers)
    config = handed.marked(config, given, measures)
    theirs = [*own.names_in(config.to_dict()), *handed.names_of(given, measures)]
    check_combinations(config)
    by_name = all(one is None for one in given.values())
    shared = shared if shared is not None and by_name else Shared()
    examples = of_data.shared_data(config, shared) if data is None else of_data.data(config, data)
    _require_memory(config, examples.train)
    placement = of_mesh.placement(config)
    kept = before.settings if before else None
    with own.blaming(theirs):
        config = with_derived(config, examples.train, kept=kept)
        check_threshold(config, examples.train)
        process = of_noise.sde(config, sde)
        handed_over = {"network": network, "parameterization": parameterization, "initial": initial}
        parts = placement.mesh.shape["fsdp"]
        model = of_network.model(config, process, examples.train, **handed_over, parts=parts)
        described = _examples(config, examples)
        sampling = _sampling(config, process, model, described, sampler, shared, placement)
        how = of_training.plan(config, already=before.steps if before else (), optimizer=optimizer, loggers=loggers)
        of_mesh.check_rules(placement, model, how)
        made = Experiment(
            seed=config.seed,
            examples=described,
            model=model,
            sampling=sampling,
            data=examples,
            prepare=of_data.preparation(config, examples.train),
            augment=of_data.augmentation(config, examples.train),
            minimised=of_objective.minimised(config),
            objective=_objective(config, process, examples, objective, weighting),
            times=of_noise.draw_times(config, process) if times is None else times,
            training=how,
            evaluation=of_evaluation.plan(
                config, process, sampling.ts, examples.train.grey_levels, kept=kept, given=measures
            ),
            placement=placement,
            summary=summary(config, examples, model),
            settings=records.as_json(config.to_dict()),
            shared=shared,
        )
    if theirs or not by_name:
        trial.require_traceable(made, theirs)
    return replace(made, with_numbers=partial(_with_numbers, config, made)) if by_name else made


def _with_numbers(config: ConfigDict, made: Experiment, numbers: Mapping[str, ArrayLike]) -> Experiment:
    """The experiment that `made` is, of the same names, with other numbers in what a train step is made of."""
    config = config.copy_and_resolve_references()
    with config.ignore_type():  # a traced number is no float
        config.update_from_flattened_dict(dict(numbers))
    process = of_noise.process(config)
    stands_for, condition = of_network.output(config, process), of_network.condition(config, process)
    return replace(
        made,
        model=made.model.replace(sde=process, parameterization=stands_for, condition=condition),
        objective=_objective(config, process, made.data, None, None),
        times=of_noise.draw_times(config, process),
        training=replace(
            made.training, optimizer=of_training.chosen_optimizer(config), decay=of_training.average_decay(config)
        ),
    )


def variants_of(config: ConfigDict) -> Variants:
    """Returns the experiments that differ from a config in a few settings, for `sweep.ablate`."""
    return variants(experiment, config)


def other_sampling(config: ConfigDict, trained: Trained) -> Sampling:
    """Returns how to sample a model that is trained already by other settings."""
    check_numbers(config)
    return _sampling(
        config, trained.model.sde, trained.model, trained.examples, None, Shared(), of_mesh.placement(config)
    )


def experiment_of(config: ConfigDict, published: Published) -> Experiment:
    """Makes an experiment of a published checkpoint and the data that the config names, to be measured.

    Raises:
      InputError: of other data than the checkpoint's network takes.
    """
    check_numbers(config)
    trained, found = of_checkpoint(config, published), of_data.data(config)
    source, process, sampling = found.train, published.model.sde, trained.sampling
    if source.shape != published.shape:
        raise InputError(
            f"{published.checkpoint} is of examples {published.shape}, and data {config.data.name!r} are of "
            f"{source.shape}: give those it was trained on, --config.data.name, and --config.data.size if need be"
        )
    return Experiment(
        seed=config.seed,
        examples=replace(_examples_of(config, published), grey_levels=source.grey_levels),
        model=published.model,
        sampling=sampling,
        data=found,
        prepare=of_data.preparation(config, source),
        augment=None,
        minimised=of_objective.minimised(config),
        objective=_objective(config, process, found, None, None),
        times=of_noise.draw_times(config, process),
        training=of_training.plan(config),
        evaluation=of_evaluation.plan(config, process, sampling.ts, source.grey_levels),
        placement=of_mesh.placement(config),
        summary=(),
        settings=records.as_json(config.to_dict()),
    )


def of_checkpoint(config: ConfigDict, published: Published) -> Trained:
    """Returns a published checkpoint with the settings to sample it by.

    Raises:
      InputError: of those that it cannot be sampled with.
    """
    check_numbers(config)
    if is_on(config.sampler.ema_std):
        raise InputError(
            "sampler.ema_std is made of the averages that a run has kept, and a published checkpoint is one: set "
            "--config.sampler.ema_std=0"
        )
    examples = _examples_of(config, published)
    placement = of_mesh.placement(config)
    sampling = _sampling(config, published.model.sde, published.model, examples, None, Shared(), placement)
    return Trained(sampling.of(examples), published.model, sampling, published.origin)


def _examples_of(config: ConfigDict, published: Published) -> Examples:
    return Examples(
        name=published.checkpoint,
        shape=published.shape,
        grey_levels=256,
        value_range=of_data.value_range(config),
        names=tuple(map(str, range(published.num_classes))),
        occurring=tuple(range(published.num_classes)),
        null_label=published.null_class,
        without_labels="has no classes",
        attribution=config.data.attribution,
    )


def _sampling(
    config: ConfigDict,
    sde: SDE,
    model: Any,
    examples: Examples,
    given: Callable[[SDE, ScoreFn], Sampler] | None,
    shared: Shared,
    placement: Placement,
) -> Sampling:
    """How a model is sampled, guided or by itself; a classifier is not."""
    if of_network.classifies(config):
        return of_sampling.of_classifier(config, sde, model, placement.mesh)
    guidance = of_guidance.guidance(config, examples, sde, partial(_guide, config, shared))
    return of_sampling.plan(config, sde, model, given, mesh=placement.mesh, guidance=guidance)


def _guide(config: ConfigDict, shared: Shared) -> Run:
    """The run that guides, read once for all experiments; it is guided by nothing."""
    options = config.sampler.guidance
    workdir, step = options.workdir, options.step or None

    def opened() -> Run:
        theirs = settings.of_run(workdir, trusted=[*own.names_in(config.to_dict())])
        theirs.sampler.guidance = settings.get_config().sampler.guidance
        theirs.mesh.update({**config.mesh, "rules": ()})  # these speak of the arrays of another network
        return run.restore(experiment(theirs, before=run.before(workdir), shared=shared), workdir, step=step)

    try:
        return shared.once("guide", {"workdir": workdir, "step": step, "mesh": config.mesh.to_dict()}, opened)
    except InputError as error:
        raise InputError(f"sampler.guidance.workdir: {error}") from error


def _objective(
    config: ConfigDict, sde: SDE, data: Data, objective: Callable[..., Array] | None, weighting: Weighting | None
) -> Objective:
    if objective is None:
        return of_objective.objective(config, sde, data.oracle, weighting)
    return of_objective.at_times(objective, sde, of_objective.weights(config) if weighting is None else weighting)


def _examples(config: ConfigDict, data: Data) -> Examples:
    source = data.train
    return Examples(
        name=data.name,
        shape=source.shape,
        grey_levels=source.grey_levels,
        value_range=of_data.value_range(config),
        names=source.names,
        occurring=tuple(datasets.occurring(source).tolist()),
        null_label=config.training.label_dropout > 0 and not of_network.classifies(config),
        without_labels=_without_labels(data),
        attribution=data.attribution,
        dequantized=config.data.dequantize,
    )


def _without_labels(data: Data) -> str:
    """Why there is no label to choose, and what would give one if anything does."""
    if not data.held_out.num_classes:
        return f"was trained on data without labels ({data.name})"
    return "was trained without labels: train it in a new workdir with --config.data.labels=True to choose"


def _require_memory(config: ConfigDict, source: Source) -> None:
    """Refuses batches that no memory holds: those of a dispatch, and those that a sampler has at once."""
    training, sampler, devices = config.training, config.sampler, jax.device_count()
    steps, size = of_training.intervals(config).dispatch, min(sampler.n, sampler.batch_size)
    batches = memory.of_batches(source.shape, -(-training.batch_size // devices), steps)
    memory.require({f"batches, training.batch_size={training.batch_size} in {steps} steps a dispatch": batches})
    drawn = memory.of_batches(source.shape, -(-size // devices), 2)  # x and its score
    memory.require({f"samples at once, sampler.batch_size={size}": drawn})
