"""What train.py and eval.py do: read the flags, then one library call."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ml_collections import ConfigDict

from drsformer_jax.cli.devices import check_devices, leave_libtpu_alone
from drsformer_jax.cli.experiment_flags import Flags, parse_flags
from drsformer_jax.cli.output import print_safely
from drsformer_jax.cli.quiet import quiet_orbax
from drsformer_jax.errors import UserError, no_access, one_line, out_of_memory, words_of
from drsformer_jax.paths import files_below, identity, local_path

if TYPE_CHECKING:
    from drsformer_jax.models.config import DRSformerConfig
    from drsformer_jax.models.drsformer import Params

EXIT_FAILURE = 2
EXIT_INTERRUPTED = 130
SIGNAL_BASE = 128  # of the exit codes of programs that a signal ended

# XLA's CPU compiler orders a program for concurrency and keeps every intermediate result alive:
# five times the memory and twice the time in a training step.
CPU_SCHEDULER_FLAG = "--xla_cpu_enable_concurrency_optimized_scheduler"


def run_experiment(command: str, argv: Sequence[str], description: str) -> int:
    """Runs "train" or "evaluate" with the flags of a command line; returns the exit code.

    0: done. 2: the user's mistake, or diverged training, told in one line on stderr. 130, 143:
    stopped by SIGINT, SIGTERM, the state saved. 75: another process of the run was lost; start all
    of them again. If stdout cannot be written, as `print_safely` says.
    """
    program = Path(argv[0]).name
    return print_safely(program, lambda: _told(program, command, argv, description))


def _told(program: str, command: str, argv: Sequence[str], description: str) -> int:
    """The exit code, mistakes told on stderr."""
    leave_libtpu_alone()
    try:
        given = parse_flags(command, argv, description)
        if given is None:
            return 0
        _train(given) if command == "train" else _evaluate(given)
    except UserError as error:
        print(f"{program}: error: {one_line(error)}", file=sys.stderr)
        return EXIT_FAILURE
    except PermissionError as error:
        print(f"{program}: error: {no_access(error)}", file=sys.stderr)
        return EXIT_FAILURE
    except MemoryError as error:
        print(f"{program}: error: {out_of_memory(error)}", file=sys.stderr)
        return EXIT_FAILURE
    except KeyboardInterrupt as request:
        number = getattr(request, "number", None)
        return EXIT_INTERRUPTED if number is None else SIGNAL_BASE + number
    except Exception as error:
        return _explain_loss(program, error)
    return 0


def _explain_loss(program: str, error: Exception) -> int:
    """The exit code after the error that another process's end has caused; raises all others."""
    from drsformer_jax.training.processes import EXIT_TRY_AGAIN, lost_another

    if not lost_another(error):
        raise error
    reason = str(error).strip().partition("\n")[0]
    print(
        f"{program}: error: another process of this run is gone ({reason}): start all of them "
        "again with the same flags, and they go on from the newest checkpoint",
        file=sys.stderr,
    )
    return EXIT_TRY_AGAIN


def end_program(code: int) -> NoReturn:
    """Ends the program with an exit code, together with the other processes of its run."""
    if "jax" in sys.modules:
        from drsformer_jax.training.processes import leave

        leave(code)
    sys.exit(code)


def prepare_cpu() -> None:
    """Sets XLA's flag for training on CPU where the user has not, and says so."""
    if CPU_SCHEDULER_FLAG not in os.environ.get("XLA_FLAGS", ""):
        setting = f"{CPU_SCHEDULER_FLAG}=false"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {setting}".strip()
        print(f"added to XLA_FLAGS: {setting} (less memory and time on CPU)", flush=True)


def keep_cpu_memory() -> None:
    """On a single CPU device, keeps the memory of a step for the next one, and says so.

    To be called before JAX's first computation: it chooses the thread that steps run in.
    """
    import jax

    from drsformer_jax.training.host_memory import keep_freed_memory

    # Steps then run in the main thread, the only one whose memory can be kept.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    check_devices()
    if jax.default_backend() != "cpu" or jax.local_device_count() > 1:
        return
    if keep_freed_memory():
        print("a step's memory is kept for the next one (less time on CPU)", flush=True)


def checked(build: Callable[[], Any], what: str) -> Any:
    """The result of `build`, a missing key of the configuration being the user's mistake."""
    try:
        return build()
    except (KeyError, AttributeError) as error:
        raise UserError(f"--config: {what}: missing key: {words_of(error)}") from error


def _train(given: Flags) -> None:
    prepare_cpu()
    quiet_orbax()
    from drsformer_jax.training.processes import join, together

    if given.distributed is not None:
        join(**given.distributed)
    keep_cpu_memory()

    from drsformer_jax.data.configured import training_source, validation_source
    from drsformer_jax.training.config import training_options
    from drsformer_jax.training.loop import train
    from drsformer_jax.training.validation import Validator

    config = given.config
    with together():
        options = checked(lambda: training_options(config), "training options")
        initial = _initial_params(config, given.workdir, options.model)
        largest = max(stage.patch_size for stage in options.stages)
        source = checked(lambda: training_source(config.data, options.seed, largest), "data")
        validation = checked(lambda: validation_source(config.data), "data")
    validator = Validator(options.model, validation)
    train(config.to_dict(), options, source, given.workdir, validator, given.profile_steps, initial)


def _initial_params(config: ConfigDict, workdir: Path, model: DRSformerConfig) -> Params | None:
    """The parameters that a new run starts from; None: random ones, or those of its checkpoint.

    Raises:
      UserError: the file is missing or broken, or its network is not the configuration's.
    """
    from drsformer_jax.checkpoints.runs import DIRECTORY, whole_steps
    from drsformer_jax.checkpoints.weights import load_weights

    if not config.get("init"):
        return None
    path = local_path(str(config.init), "--config.init")
    if whole_steps(workdir / DIRECTORY):
        print(f"note: --config.init {path} is not read, for {workdir} holds a run", flush=True)
        return None
    try:
        weights = load_weights(path)
    except UserError as error:
        raise UserError(f"--config.init: {error}") from error
    there, here = weights.config.architecture(), model.architecture()
    if all(weights.config.hidden_channels(n) == model.hidden_channels(n) for n in model.channels):
        # All that counts of it, and all that a file of PyTorch tells.
        there.pop("ffn_expansion_factor")
    different = [key for key, value in there.items() if value != here[key]]
    if different:
        listed = ", ".join(
            f"config.model.{k} ({there[k]} there, {here[k]} here)" for k in different
        )
        raise UserError(
            f"--config.init: {path} holds another network than the configuration: {listed}; name "
            "other weights or set these keys"
        )
    for note in weights.notes:
        print(f"{path}: {note}", flush=True)
    print(f"starting from the parameters in {path}", flush=True)
    return weights.params


def _check_inputs_stay(given: Flags) -> None:
    """That no image to be read lies where restored ones are written, and older ones removed.

    Raises:
      UserError: one does.
    """
    from drsformer_jax.evaluation.run import DIRECTORY, RESTORED

    out = given.workdir / DIRECTORY
    written = {identity(path) for path in (out, *out.glob("*"), *out.glob(f"*/{RESTORED}"))}
    folders = [folder for _, folder in given.sets]
    if not folders and isinstance(given.config.get("data"), ConfigDict):
        folders = [local_path(str(given.config.data.get("val")))]
    for folder in folders:
        for place in {file.parent for file in files_below(folder)}:
            if identity(place) in written:
                raise UserError(
                    f"{place}: images to be restored lie in {out}, where results are written: "
                    "move them elsewhere"
                )


def _evaluate(given: Flags) -> None:
    from drsformer_jax.data.configured import split_for_test, validation_source
    from drsformer_jax.data.sets import SETS, get_set
    from drsformer_jax.evaluation.run import Options, Task, evaluate_workdir

    config = given.config
    _check_inputs_stay(given)
    protocol = checked(lambda: config.eval.protocol, "eval.protocol")
    per_device = checked(lambda: config.eval.batch_size, "eval.batch_size")
    options = Options(**given.restoring, per_device=per_device)
    tasks = []
    for name, folder in given.sets:
        known = SETS.get(name)
        source = split_for_test(folder, known)
        tasks.append(Task(name, source, known.protocol if known else protocol, known))
    if not tasks:
        source = checked(lambda: validation_source(config.data), "data")
        name = checked(lambda: config.eval.data_set, "eval.data_set")
        data_set = get_set(name) if name else None
        tasks.append(Task(name or config.name, source, protocol, data_set))
    check_devices()
    print(evaluate_workdir(given.workdir, tasks, options, own=not given.sets))
