"""Flags of commands whose work several processes share, and a job begun and done by them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

from drsformer_jax.cli.devices import tpu_chips
from drsformer_jax.errors import UserError, one_line
from drsformer_jax.jobs.engines import Engine, Inline, MakeWorker, Processes
from drsformer_jax.jobs.folder import JobFolder
from drsformer_jax.jobs.ledger import DONE, FAILED, Ledgers, Row, opened, stamp_of
from drsformer_jax.jobs.shards import WHOLE, Shard, parse_shard
from drsformer_jax.jobs.status import status
from drsformer_jax.jobs.stopping import listening
from drsformer_jax.jobs.units import Size, Unit, batches
from drsformer_jax.paths import local_path

ENGINES = ("processes", "ray")
DEFAULT_WORKERS = 2


class _Status(argparse.Action):
    """Tells how far a job is, and ends the program: 0 if all is done, else 1."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: object, values: Any, option: object = None
    ) -> None:
        text, is_done = status(values)
        print(one_line_each(text))
        parser.exit(0 if is_done else 1)


def one_line_each(text: str) -> str:
    """Lines that may hold names of files, which may hold what speaks to the terminal."""
    return "\n".join(map(one_line, text.split("\n")))


def add_job_arguments(parser: argparse.ArgumentParser, out: str = "OUT") -> None:
    """Declares what says who does which share of the work; `out` is what the folder is called."""
    group = parser.add_argument_group(
        "many machines",
        f"With --shard or --engine the work is a job, and {out}/.drsformer tells what is done of "
        "it: the same command, killed or not, goes on (docs/scale.md).",
    )
    group.add_argument(
        "--shard",
        type=parse_shard,
        metavar="I/N",
        help="do part I of N alone; auto: what Slurm, Kubernetes or a TPU pod says it is",
    )
    group.add_argument(
        "--engine", choices=ENGINES, help="hand the work, or this part of it, out to --workers"
    )
    group.add_argument(
        "--workers", type=int, metavar="N", help=f"of --engine (default: {DEFAULT_WORKERS})"
    )
    group.add_argument(
        "--address", metavar="A", help="of the Ray cluster; auto: that of this machine"
    )
    group.add_argument(
        "--resources",
        type=_resources,
        metavar="R=N",
        help="of a worker on Ray: GPU=1, TPU=4 (default: one CPU)",
    )
    group.add_argument(
        "--overwrite",
        action="store_true",
        help=f"begin anew where {out} holds a job, or parts of a film, that other weights or "
        "settings made",
    )
    group.add_argument(
        "--status",
        action=_Status,
        type=local_path,
        metavar=out,
        help="tell how far the job in a folder is, and no more: exit code 0: done; 1: not",
    )


def is_job(args: argparse.Namespace) -> bool:
    """Whether the work is shared, or may be.

    Raises:
      UserError: flags that say so contradict each other.
    """
    for flag in ("workers", "address", "resources"):
        if getattr(args, flag) is not None and not args.engine:
            raise UserError(f"--{flag}: goes with --engine")
    if args.engine == "processes" and (args.address or args.resources):
        raise UserError("--address, --resources: are of --engine ray")
    if args.workers is not None and args.workers < 1:
        raise UserError(f"--workers {args.workers}: must be positive")
    return bool(args.shard or args.engine)


def _engine(args: argparse.Namespace, shard: Shard) -> Engine:
    """UserError: Ray is not installed."""
    if not args.engine:
        return Inline(shard.writer)
    workers = args.workers or DEFAULT_WORKERS
    prefix = f"{shard.writer}-" if args.shard else ""
    if args.engine == "processes":
        return Processes(workers, prefix, tpu_chips())
    from drsformer_jax.jobs.ray_engine import Ray

    return Ray(workers, args.address, args.resources or {}, prefix)


def _resources(text: str) -> dict[str, float]:
    resources = {}
    for part in text.split(","):
        name, _, number = part.partition("=")
        try:
            resources[name] = float(number)
        except ValueError:
            raise UserError(f"--resources {text}: must be like GPU=1 or TPU=4") from None
    return resources


def do_job(
    args: argparse.Namespace,
    folder: JobFolder,
    units: Sequence[Unit],
    make_worker: MakeWorker,
    on_row: Callable[[Row], None],
    size_of: Callable[[Unit], Size] | None = None,
    trusted: Collection[str] = (),
) -> int:
    """Does the share of a job, which was begun, that the flags name; what is done is left out.

    Args:
      units: of the whole job. One with a share is done by all parts, or all workers, together.
      on_row: told of what is done.
      size_of: of a unit's image, from its header.
      trusted: names of units whose outputs are there, and count as done if no ledger tells of them.

    Returns:
      0; 1 if units failed; or 128 and the number of the signal that ended it.

    Raises:
      UserError: as the engine and the workers do.
    """
    shard: Shard = args.shard or WHOLE
    engine = _engine(args, shard)
    try:
        sizes = folder.list(units, size_of)
    except OSError as error:
        raise UserError(f"{folder.path}: cannot be written ({error.strerror})") from error
    first, count = (shard.number - 1) * engine.workers, shard.count * engine.workers
    shares = [(first + number + 1, count) for number in range(engine.workers)]
    own = [unit for unit in units if not unit.share and shard.has(unit.name)]
    own += [replace(unit, share=share) for unit in units if unit.share for share in shares]
    ledgers = Ledgers(folder, {unit.name for unit in own})
    if found := [unit for unit in own if unit.name in trusted and unit.name not in ledgers.seen]:
        with opened(folder, shard.writer, "") as ledger:
            for unit in found:
                ledger.write(unit.name, DONE, input=stamp_of(unit))
        ledgers = Ledgers(folder, {unit.name for unit in own})
    left = [unit for unit in own if not ledgers.done(unit)]
    again = any(ledgers.is_poison(unit.name) for unit in left)
    if done := len(own) - len(left):
        print(f"{done:,} of {len(own):,} are done already")
    if not left:
        return 0
    failures: list[str] = []
    with listening() as stopped:
        for row in engine.submit(batches(left, sizes), make_worker, stopped, again):
            if row["status"] == FAILED:
                failures.append(row["why"])
            on_row(row)
        number = stopped()
    for message in failures:
        print(f"error: {one_line(message)}", file=sys.stderr)
    if number:
        print("stopped; the same command goes on", file=sys.stderr)
        return 128 + number
    if failures:
        print(f"{len(failures):,} of {len(left):,} failed", file=sys.stderr)
    return 1 if failures else 0
