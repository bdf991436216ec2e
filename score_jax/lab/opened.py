"""The checkpoint that a command is given, a published one, or a run's: the flags, and the settings they change."""

from absl import flags

from score_jax.interop.sources import SOURCES
from score_jax.lab import command, published, settings
from score_jax.types import InputError

_OPENED: list[published.Published] = []  # read while flags are defined, once


def define() -> None:
    """Defines `--workdir` or `--checkpoint`, reads what is named, and defines the overrides of its settings."""
    path = command.given("checkpoint")
    if path is None:
        command.define_run(lambda config: settings.with_sampler(config, **command.given_sampler()))
    else:
        opened = command.attempt(lambda: _open(path))
        _OPENED.append(opened)
        config = settings.get_config()
        config.update_from_flattened_dict(opened.settings)
        command.attempt(lambda: settings.with_sampler(config, **command.given_sampler()))
        command.define_overrides(config, "of the checkpoint")
    command.define_sampler()
    flags.DEFINE_string("checkpoint", None, "published checkpoint, in place of --workdir")
    flags.DEFINE_enum("source", None, list(SOURCES), "whose checkpoint it is: by default what its looks and names say")
    flags.DEFINE_string("source_config", None, "its own config file, where the checkpoint doesn't say all")
    flags.DEFINE_enum("weights", "ema", ["ema", "raw"], "take the averages of parameters where it has some")
    flags.DEFINE_string("size", None, "side of its images, or height and width, 32x48; by default its config's")
    flags.DEFINE_integer("step", None, "checkpoint of the run to use; the newest by default")


def named_checkpoint() -> published.Published | None:
    """Returns the published checkpoint that was named, if one was."""
    return _OPENED[0] if _OPENED else None


def _open(path: str) -> published.Published:
    if command.given("workdir"):
        raise InputError("--checkpoint and --workdir exclude each other: a published checkpoint or a run's, give one")
    command.configure_backend(settings.get_config())
    return published.open_published(
        path,
        source=command.given("source"),
        source_config=command.given("source_config"),
        use_ema=command.given("weights") != "raw",
        size=command.given_size("size"),
    )
