"""Tasks on several processes, GPUs or machines, by a Ray cluster.

Ray is imported when it is used. Each task is sent to a process that has the calibration's number of
threads and, on CUDA, a GPU of its own. A process that dies (killed, out of memory, machine gone)
costs the task that it had: Ray gives it to another one. https://docs.ray.io
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from vq4dit.errors import BackendUnavailable, OptionError, Vq4ditError

from .compute import Compute
from .executor import R, TaskT, Work

#: Address that starts a cluster of this machine's own for as long as the calibration runs.
LOCAL = "local"

#: How often a task is done again after the death of its process.
_RETRIES = 3

#: Tasks handed out beyond those that run, so that no process waits for the next one.
_AHEAD = 1


class RayExecutor:
    """An `Executor` on a Ray cluster; a context manager that leaves the cluster at its end."""

    def __init__(self, address: str, compute: Compute, *, workers: int | None = None) -> None:
        """Join or start a cluster; one that this process is in already is used and left as it is.

        Args:
            address: "local", or what `ray.init` takes: "auto", "HOST:PORT".
            compute: threads and device of each task.
            workers: processes of a local cluster; None: as many as CPUs or GPUs allow.
        Raises:
            BackendUnavailable: Ray is not installed, or there is no cluster at the address.
            OptionError: the cluster has not enough for one task, or has its own workers.
        """
        if workers is not None and address != LOCAL:
            raise OptionError(
                f"{workers} workers: the cluster at {address!r} has its own; workers go with "
                f"the address {LOCAL!r}"
            )
        self._ray = _ray_module()
        self._resources = {"num_cpus": compute.threads, "num_gpus": int(compute.uses_cuda)}
        self._is_own = not self._ray.is_initialized()
        if self._is_own:
            self._join(address, None if workers is None else workers * compute.threads)
        self.num_workers = self._count_workers(compute)

    def _join(self, address: str, num_cpus: int | None) -> None:
        """Start a cluster on this machine, or join one."""
        local = {"num_cpus": num_cpus, "include_dashboard": False} if address == LOCAL else {}
        try:
            # What workers print must not get into a command's own output.
            self._ray.init(
                address=address, logging_level=logging.ERROR, log_to_driver=False, **local
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise BackendUnavailable(
                f"no Ray cluster at {address!r} ({error}); start one with `ray start --head`, "
                f"or use {LOCAL!r} for this machine alone"
            ) from None

    def _count_workers(self, compute: Compute) -> int:
        """How many tasks the cluster can do at once."""
        has = self._ray.cluster_resources()
        workers = int(has.get("CPU", 0)) // compute.threads
        if compute.uses_cuda:
            workers = min(workers, int(has.get("GPU", 0)))
        if workers < 1:
            self.close()
            raise OptionError(
                f"the Ray cluster has {has.get('CPU', 0):.0f} CPUs and {has.get('GPU', 0):.0f} "
                f"GPUs; one task needs {compute.threads} CPUs and {int(compute.uses_cuda)} GPUs: "
                "use fewer --threads, another --device or a larger cluster"
            )
        return workers

    def run(
        self,
        work: Work[TaskT, R],
        tasks: Iterable[TaskT],
        report: Callable[[str, Any], None] = lambda name, event: None,
    ) -> Iterator[tuple[str, R]]:
        """Do all tasks; what a task reported is told when its result is there.

        Raises:
            Vq4ditError: the work's own error, or a task whose processes died again and again.
        """
        remote = self._ray.remote(_do).options(max_retries=_RETRIES, **self._resources)
        pending: dict[Any, str] = {}
        try:
            for task in tasks:
                pending[remote.remote(work, task)] = task.name
                while len(pending) >= self.num_workers + _AHEAD:
                    yield self._next(pending, report)
            while pending:
                yield self._next(pending, report)
        finally:
            for reference in pending:
                self._ray.cancel(reference, force=True)

    def _next(self, pending: dict[Any, str], report: Callable[[str, Any], None]) -> tuple[str, Any]:
        """Wait for one task; its name and result."""
        done, _ = self._ray.wait(list(pending), num_returns=1)
        name = pending.pop(done[0])
        try:
            result, events = self._ray.get(done[0])
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, self._ray.exceptions.RaySystemError):
                raise BackendUnavailable(
                    f"{name}: a process could not take it ({_last_line(error)}); every machine "
                    "needs the same vq4dit installed"
                ) from None
            raise error.cause from None
        except self._ray.exceptions.RayError as error:
            raise Vq4ditError(
                f"{name}: its process died {_RETRIES + 1} times ({_first_line(error)}); if memory "
                "is short, use fewer workers. Finished units are kept for --resume"
            ) from None
        for event in events:
            report(name, event)
        return name, result

    def close(self) -> None:
        """Leave the cluster; one that was started here ends."""
        if self._is_own:
            self._ray.shutdown()

    def __enter__(self) -> RayExecutor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _do(work: Work[TaskT, R], task: TaskT) -> tuple[R, list[Any]]:
    """In a worker: the result and what was reported on the way."""
    events: list[Any] = []
    return work(task, events.append), events


def _first_line(error: Exception) -> str:
    """What Ray says first."""
    return str(error).strip().splitlines()[0]


def _last_line(error: Exception) -> str:
    """What a trace ends with."""
    return str(error).strip().splitlines()[-1].strip()


def _ray_module() -> Any:
    """The module, imported when it is needed."""
    try:
        import ray
        import ray.exceptions
    except ModuleNotFoundError:
        raise BackendUnavailable(
            "calibration on several processes or machines needs ray; "
            "pip install 'vq4dit[distributed]'"
        ) from None
    return ray
