"""Units of a job on a Ray cluster: an actor is a worker. Names travel, never pixels."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

from drsformer_jax.errors import UserError, in_one_line, missing_extra
from drsformer_jax.jobs.engines import Batches, Event, MakeWorker, Stopped, hand_out
from drsformer_jax.jobs.ledger import Row
from drsformer_jax.jobs.units import Unit

_GPU = "GPU"


class Ray:
    """Actors of a cluster; of one on this machine alone, if none is named."""

    def __init__(
        self, workers: int, address: str | None, resources: dict[str, float], prefix: str = ""
    ) -> None:
        """Takes what `ray.init` and each actor need.

        Args:
          resources: of an actor, by Ray's names: "GPU", "TPU", or the cluster's own.
          prefix: what the names of their ledgers begin with.

        Raises:
          UserError: Ray is not installed.
        """
        if find_spec("ray") is None:
            raise missing_extra("ray", "ray", "--engine ray")
        self.workers, self.prefix = workers, prefix
        self.address, self.resources = address, resources

    def submit(
        self, batches: Batches, make_worker: MakeWorker, stopped: Stopped, again: bool
    ) -> Iterator[Row]:
        """See `engines.Engine`."""
        pool = _Actors(self, make_worker)
        yield from hand_out(pool, self.workers, batches, stopped, again)


class _Actors:
    """An `engines.Pool`."""

    def __init__(self, engine: Ray, make_worker: MakeWorker) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        import ray

        self._is_ours = not ray.is_initialized()
        options: dict[str, Any] = {"address": engine.address}
        if engine.address is None:
            cores = max(engine.workers, os.cpu_count() or 1)
            options = {"num_cpus": cores, "include_dashboard": False}
        try:
            with warnings.catch_warnings():
                # Of forks, by which Ray starts programs: JAX has threads, but such a program none.
                warnings.simplefilter("ignore", RuntimeWarning)
                if self._is_ours:
                    ray.init(logging_level=logging.ERROR, log_to_driver=False, **options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(
                f"--engine ray: no cluster can be had ({in_one_line(error)})"
            ) from error
        own = dict(engine.resources)
        self._options = {"num_cpus": 1, "num_gpus": own.pop(_GPU, 0), "resources": own or None}
        self._engine, self._make_worker, self._ray = engine, make_worker, ray
        self._actors: dict[int, Any] = {}
        self._futures: dict[Any, int] = {}

    def start(self, number: int) -> None:
        writer = f"{self._engine.prefix}worker-{number}-of-{self._engine.workers}"
        # `stop` is heard while `run` is at work.
        made = self._ray.remote(_Actor).options(max_concurrency=2, **self._options)
        self._actors[number] = made.remote(self._make_worker, writer)

    def give(self, number: int, batch: list[Unit], again: bool) -> None:
        self._futures[self._actors[number].run.remote(batch, again)] = number

    def wait(self) -> list[Event]:
        ready, _ = self._ray.wait(list(self._futures), timeout=0.5)
        return [self._event(future) for future in ready]

    def _event(self, future: Any) -> Event:
        number = self._futures.pop(future)
        try:
            return Event(number, self._ray.get(future), has_ended=True)
        except UserError as error:  # of the work, with Ray's words around it
            raise UserError(str(getattr(error, "cause", error))) from None
        except self._ray.exceptions.RayError as error:
            with contextlib.suppress(self._ray.exceptions.RayError):
                self._ray.kill(self._actors.pop(number))
            return Event(number, [], has_died=True, why=in_one_line(error))

    def stop(self) -> None:
        for actor in self._actors.values():
            actor.stop.remote()

    def close(self) -> None:
        for actor in self._actors.values():
            self._ray.kill(actor)
        if self._is_ours:
            self._ray.shutdown()


class _Actor:
    """A worker in a process of the cluster, made when it is first needed."""

    def __init__(self, make_worker: MakeWorker, writer: str) -> None:
        self._make_worker, self._writer = make_worker, writer
        self._worker: Any = None
        self._stopped = 0

    def run(self, batch: list[Unit], again: bool) -> list[Row]:
        if self._worker is None:
            self._worker = self._make_worker(self._writer, lambda: self._stopped).__enter__()
        return list(self._worker.run(batch, again))

    def stop(self) -> None:
        self._stopped = 1
