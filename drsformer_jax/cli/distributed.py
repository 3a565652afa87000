"""The flags that make train.py or eval.py one of several processes."""

from __future__ import annotations

from typing import Any

from absl import flags

from drsformer_jax.errors import UserError, is_number

USAGE = """
  --distributed       one of several processes, started with the same flags on every host; who the
                      others are is found out on TPU pods, GKE, Slurm and Open MPI, or said by
  --coordinator_address HOST:PORT, --num_processes N, --process_id I
  --distributed_timeout SECONDS   to wait for the others (300)"""

# Seconds; machines of a pod do not all start at the same moment.
TIMEOUT = 300


def define_distributed(values: flags.FlagValues) -> None:
    """Declares the flags."""
    flags.DEFINE_boolean("distributed", False, "one of several processes", flag_values=values)
    flags.DEFINE_string("coordinator_address", None, "of process 0", flag_values=values)
    for name, text, least in (
        ("num_processes", "of the run", 1),
        ("process_id", "of this process", 0),
        ("distributed_timeout", "seconds", 1),
    ):
        flags.DEFINE_integer(name, None, text, lower_bound=least, flag_values=values)


def distributed_arguments(values: flags.FlagValues) -> dict[str, Any] | None:
    """What the flags say of the other processes: the arguments of `processes.join`; None: alone.

    Raises:
      UserError: some of the flags that belong together are missing.
    """
    names = ("coordinator_address", "num_processes", "process_id")
    said = {name: values[name].value for name in names}
    given = [name for name in (*names, "distributed_timeout") if values[name].present]
    if not values["distributed"].value:
        if given:
            raise UserError(f"--{given[0]} goes with --distributed, which is missing")
        return None
    missing = [f"--{name}" for name, value in said.items() if value is None]
    if missing and len(missing) < len(names):
        raise UserError(f"{' and '.join(missing)} missing: the three go together")
    address, processes, process = said.values()
    if address is not None:
        host, _, port = address.rpartition(":")
        if not host or not is_number(port) or not 0 < int(port) < 2**16:
            raise UserError(f"--coordinator_address={address}: must be HOST:PORT")
        if process is not None and processes is not None and process >= processes:
            raise UserError(f"--process_id={process}: must be below --num_processes={processes}")
    timeout = values["distributed_timeout"].value or TIMEOUT
    return {
        "coordinator": address, "processes": processes, "process": process, "timeout": timeout,
    }  # fmt: skip


def join_if_asked(arguments: dict[str, Any] | None) -> None:
    """Joins the others (`processes.join`), where there are any."""
    from drsformer_jax.processes import join

    if arguments is not None:
        join(**arguments)
