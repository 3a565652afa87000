"""`drsformer plan`: what a training run needs of devices that are not there."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys

from drsformer_jax.cli.devices import check_devices, leave_libtpu_alone
from drsformer_jax.cli.reports import check_destination, write_report
from drsformer_jax.errors import UserError, is_number
from drsformer_jax.paths import local_path

DEVICES = ("tpu", "cpu", "gpu")
HOST_DEVICES_FLAG = "--xla_force_host_platform_device_count"

_EPILOG = """\
The training step is compiled as train.py does it, for TPUs on any Linux machine (pip install
'drsformer_jax[tpu]'); the full network takes ten minutes to half an hour. Any key of the
configuration can be changed, as with train.py: --config.model.dtype=bfloat16. Memory and messages
are those of the compiled program; times are estimates, and so is the largest batch. Exit code 0:
planned, whether it fits or not; 2: it could not be planned.

--selfcheck plans nothing: it runs every Pallas kernel on the TPU of this machine, compares values
and gradients with the other form of the module, and times both; without a TPU the smallest cases
are interpreted. Exit code 0: all agree; 1: one does not.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `drsformer plan`."""
    parser.epilog = _EPILOG
    parser.add_argument(
        "--config", metavar="FILE", help="such as configs/rain200h.py; needed but for --selfcheck"
    )
    parser.add_argument(
        "--topology",
        help="TPU chips, such as v5e:16x16; with --device cpu or gpu their number (default 1)",
    )
    parser.add_argument(
        "--batch", type=int, metavar="B", help="global batch; default: the configuration's"
    )
    parser.add_argument("--device", choices=DEVICES, default="tpu", help="default: %(default)s")
    parser.add_argument(
        "--json", type=local_path, metavar="FILE", help="writes the plan as JSON, too"
    )
    parser.add_argument(
        "--selfcheck",
        action="store_true",
        help="compare TPU's kernels with the other forms, here and now; plans nothing",
    )
    parser.set_defaults(takes_changes=True, compiles_for_tpu=True)


def run(args: argparse.Namespace) -> int:
    """Plans a run; returns the exit code.

    Raises:
      UserError: a flag, the configuration or what it needs is not as it must be.
    """
    from drsformer_jax.cli.experiment import checked
    from drsformer_jax.cli.experiment_flags import parse_config

    if args.selfcheck:
        return _selfcheck(args)
    if args.config is None:
        raise UserError("--config is missing: name one such as configs/rain200h.py")
    # Behind a colon stands what get_config gets.
    config_file = local_path(args.config.partition(":")[0], "--config")
    check_destination("--json", args.json, [config_file])
    topology = _topology(args)
    config = parse_config([f"--config={args.config}", *args.changes])
    _prepare(args.device, topology)

    from drsformer_jax.files import write_json
    from drsformer_jax.planning.plan_report import document, text
    from drsformer_jax.planning.planner import make_plan, planned_options, target_of

    options = checked(lambda: planned_options(config.to_dict(), args.batch), "training options")
    target = target_of(topology, args.device, options)
    if sys.stderr.isatty():
        print("compiling, for minutes if the network is large ...", file=sys.stderr, flush=True)
    plan = make_plan(options, target)
    print(text(plan))
    write_report("--json", args.json, lambda path: write_json(path, document(plan)))
    return 0


def _selfcheck(args: argparse.Namespace) -> int:
    """Compares kernels on the device at hand; returns the exit code.

    Raises:
      UserError: a flag that plans, or a file that cannot be written.
    """
    given = {"--config": args.config, "--topology": args.topology, "--batch": args.batch}
    for flag, value in given.items():
        if value is not None:
            raise UserError(f"--selfcheck plans nothing: leave {flag} out")
    if args.changes:
        raise UserError(f"--selfcheck plans nothing: leave {args.changes[0]} out")
    check_destination("--json", args.json, [])
    leave_libtpu_alone()
    check_devices()

    from drsformer_jax.files import write_json
    from drsformer_jax.planning.selfcheck import document, text
    from drsformer_jax.training.kernel_trials import all_tried

    trials = all_tried()
    print(text(trials))
    write_report("--json", args.json, lambda path: write_json(path, document(trials)))
    return 0 if all(trial.agrees for trial in trials) else 1


def _topology(args: argparse.Namespace) -> str:
    if args.device == "tpu":
        if args.topology is None:
            raise UserError("--topology is missing: name one such as v5e:4x4")
        return str(args.topology)
    topology = args.topology or "1"
    if not is_number(topology) or int(topology) < 1:
        raise UserError(
            f"--topology {topology}: with --device {args.device} it is a number of devices"
        )
    return str(topology)


def _prepare(device: str, topology: str) -> None:
    """What has to be set before JAX starts.

    Raises:
      UserError: libtpu is not installed.
    """
    from drsformer_jax.training.cpu import prepare_cpu

    if device == "tpu" and importlib.util.find_spec("libtpu") is None:
        raise UserError(
            "libtpu, the compiler for TPUs, is not installed: pip install 'drsformer_jax[tpu]'"
        )
    if device == "tpu":
        # Programs for chips that are not there can be written to JAX's cache, but not be read.
        os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
    if device == "gpu":
        leave_libtpu_alone()
        check_devices()
    else:
        # Whatever this machine has otherwise is left alone.
        os.environ["JAX_PLATFORMS"] = "cpu"
    if device == "cpu":
        prepare_cpu()
        # Of two the last counts.
        flags = f"{os.environ.get('XLA_FLAGS', '')} {HOST_DEVICES_FLAG}={topology}"
        os.environ["XLA_FLAGS"] = flags.strip()
