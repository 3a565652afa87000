"""A training configuration, checked: what train.py's --config says, as typed options."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from drsformer_jax.data.pipeline import Stage
from drsformer_jax.data.transforms import DIHEDRAL, ORIENTATIONS
from drsformer_jax.errors import UserError, wrong_key
from drsformer_jax.models.config import PRESETS, DRSformerConfig
from drsformer_jax.models.drsformer import SIZE_MULTIPLE
from drsformer_jax.training.optimizer import ADAMW, MOST_STEPS, OptimizerOptions
from drsformer_jax.training.sharding import MeshOptions

T = TypeVar("T")

# What may differ when a run is resumed; anything else would make it another run.
RESUMABLE_KEYS = frozenset(
    {
        "name",
        "init",
        "total_steps",
        "log_every",
        "eval_every",
        "checkpoint_every",
        "keep_checkpoints",
        "data.train",
        "data.val",
        "data.cache",
        "data.threads",
        "data.rain.light",
        "data.rain.heavy",
        "data.rain.streaks",
        "data.rain.pairs",
        "eval.protocol",
        "eval.data_set",
        "eval.batch_size",
        "model.unroll",
        "model.remat",
        "model.kernels",
        "mesh.data",
        "mesh.fsdp",
        "mesh.spatial",
    }
)
# Keys that runs of before do not have, with the value that their programs worked by.
ADDED_SINCE: Mapping[str, Any] = {
    "optimizer.name": ADAMW,
    "data.augment": DIHEDRAL,
    "data.rain.unknown": 1.0,
    "data.rain.dense": 0.0,
    "data.rain.gain": [0.75, 1.3],
    "data.rain.warped": 0.5,
    "data.rain.second": 0.3,
}
# JAX takes seeds of 64 bits, with their sign.
LARGEST_SEED = 2**63 - 1


@dataclasses.dataclass(frozen=True)
class TrainingOptions:
    """One training run; the fields are the keys of configs/base.py.

    Attributes:
      stages: batch and patch sizes in order, from global_batch and patch_size or progressive.
    """

    model: DRSformerConfig
    optimizer: OptimizerOptions
    mesh: MeshOptions
    stages: tuple[Stage, ...]
    seed: int
    total_steps: int
    accumulation_steps: int
    ema_decay: float
    mixup: bool
    log_every: int
    eval_every: int
    checkpoint_every: int
    keep_checkpoints: int
    data_threads: int
    augment: str


def training_options(config: Mapping[str, Any]) -> TrainingOptions:
    """Checks a configuration.

    Raises:
      UserError: a key is missing or unknown, or a value out of its range; the key is named.
    """
    not_negative = ("seed", "log_every", "eval_every", "checkpoint_every")
    positive = ("total_steps", "accumulation_steps", "keep_checkpoints")
    for key in not_negative:
        _require(_integer(config, key) >= 0, key, config[key], "must not be negative")
    for key in positive:
        _require(_integer(config, key) >= 1, key, config[key], "must be at least 1")
    flat = flatten(config)
    for key in {"global_batch", "patch_size", "data.threads", "data.rain_versions"} & flat.keys():
        _integer(flat, key)
    for key, value in flat.items():
        most = LARGEST_SEED if key == "seed" else MOST_STEPS
        too_large = isinstance(value, int) and value > most
        _require(not too_large, key, value, f"must be at most {most}")
    decay = config["ema_decay"]
    in_range = isinstance(decay, int | float) and 0 <= decay < 1
    _require(in_range, "ema_decay", decay, "must be in [0, 1)")
    threads = flat["data.threads"]
    _require(threads >= 0, "data.threads", threads, "must not be negative")
    options = TrainingOptions(
        model=model_config(config["model"]),
        optimizer=_options(OptimizerOptions, config, "optimizer"),
        mesh=_options(MeshOptions, config, "mesh"),
        stages=_stages(config),
        data_threads=threads,
        augment=augment_of(config),
        **{key: config[key] for key in (*not_negative, *positive, "ema_decay", "mixup")},
    )
    for stage in options.stages:
        _require(
            stage.batch_size % options.accumulation_steps == 0,
            "accumulation_steps",
            options.accumulation_steps,
            f"must divide the global batch of {stage.batch_size}",
        )
    return options


def model_config(model: Mapping[str, Any]) -> DRSformerConfig:
    """The network of a configuration's `model` part: a preset and what differs from it."""
    values = {key: value for key, value in model.items() if value is not None}
    preset = values.pop("preset")
    if preset not in list(PRESETS):  # it may be anything
        raise UserError(f"config.model.preset: {preset!r} is not one of {', '.join(PRESETS)}")
    try:
        return dataclasses.replace(PRESETS[preset], **values)
    except (TypeError, ValueError) as error:
        raise UserError(f"config.model: {wrong_key(error)}") from error


def _options(kind: Callable[..., T], config: Mapping[str, Any], part: str) -> T:
    """A part of a configuration as the options that it stands for."""
    try:
        return kind(**config[part])
    except (TypeError, ValueError) as error:
        raise UserError(f"config.{part}: {wrong_key(error)}") from error


def _stages(config: Mapping[str, Any]) -> tuple[Stage, ...]:
    if not config["progressive"]:
        stages = [Stage(None, config["global_batch"], config["patch_size"])]
        keys = ("global_batch", "patch_size")
    else:
        keys = ("progressive", "progressive")
        try:
            stages = [Stage(*map(operator.index, stage)) for stage in config["progressive"]]
        except TypeError as error:  # no list, or one of something else
            raise UserError(
                "config.progressive: must be a list of (steps, global_batch, patch_size), not "
                f"{config['progressive']!r}"
            ) from error
    for stage in stages:
        _require(stage.batch_size >= 1, keys[0], stage.batch_size, "must be at least 1")
        _require(
            stage.patch_size >= SIZE_MULTIPLE and stage.patch_size % SIZE_MULTIPLE == 0,
            keys[1],
            stage.patch_size,
            f"patch sizes must be multiples of {SIZE_MULTIPLE}",
        )
        _require(stage.steps is None or stage.steps >= 1, keys[0], stage.steps, "must be positive")
    return tuple(stages)


def _integer(config: Mapping[str, Any], key: str) -> int:
    value = config[key]
    _require(isinstance(value, int), key, value, "must be a whole number")
    return value


def augment_of(config: Mapping[str, Any]) -> str:
    """`config.data.augment`, one of `data.transforms.ORIENTATIONS`.

    Raises:
      UserError: it is none of them.
    """
    augment: str = config["data"].get("augment", DIHEDRAL)
    known = " or ".join(ORIENTATIONS)
    _require(augment in list(ORIENTATIONS), "data.augment", augment, f"must be {known}")
    return augment


def _require(condition: bool, key: str, value: Any, message: str) -> None:
    if not condition:
        raise UserError(f"config.{key}: {message}, not {value!r}")


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys joined by dots; tuples become lists, as JSON has them."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if hasattr(value, "items"):  # a ConfigDict is no Mapping
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = _as_json(value)
    return flat


def _as_json(value: Any) -> Any:
    return [_as_json(item) for item in value] if isinstance(value, tuple | list) else value


def check_same_run(saved: Mapping[str, Any], config: Mapping[str, Any], workdir: str) -> None:
    """That a workdir's run may be carried on with a configuration.

    Of a run that another program began (`basicsr`) only what its files told is compared.

    Args:
      saved: with the checkpoint.
      config: of the run that is to go on, with its `architecture`.
      workdir: for the message.

    Raises:
      UserError: keys differ that would make it another run; all of them are named.
    """
    new = flatten(config)
    old = {key: value for key, value in ADDED_SINCE.items() if key in new} | flatten(saved)
    keys, origin = old.keys() | new.keys(), "of another configuration"
    different: dict[str, str] = {}
    if "imported" in saved:
        origin = f"imported from {saved['imported']['file']}, of another configuration"
        keys = {key for key in old if not key.startswith("imported.")}
        averaged = saved["imported"]["ema"]
        if averaged != (config["ema_decay"] > 0):
            there = "a moving average" if averaged else "no moving average"
            different["config.ema_decay"] = f"{there} there, {config['ema_decay']} here"
    for key in sorted(keys):
        if key not in RESUMABLE_KEYS and old.get(key) != new.get(key):
            # The architecture is what `model` makes of a preset and the keys that are set.
            name = f"config.{key.replace('architecture.', 'model.')}"
            different.setdefault(name, f"{old.get(key)} there, {new.get(key)} here")
    if different:
        listed = ", ".join(f"{name} ({values})" for name, values in different.items())
        raise UserError(
            f"{workdir} holds a run {origin}: {listed}; "
            "choose another --workdir or the configuration that it was started with"
        )
