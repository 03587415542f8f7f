"""The workers of a Dask cluster: each makes its own calculator once, and measures windows until there are none left.

A worker that is lost takes nothing along: Dask gives its windows to another. A structure that kills every worker that
tries it is listed among the failures.
"""

from __future__ import annotations

import os
import pickle
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from equiv_probe.errors import EquivProbeError
from equiv_probe.messages import logger
from equiv_probe_ase.auditing.crew import Work
from equiv_probe_ase.auditing.windows import failure, measure_window

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from distributed import Client, Future

    from equiv_probe_ase.auditing.crew import Records, Window
    from equiv_probe_ase.auditing.options import Options
    from equiv_probe_ase.auditing.subject import Recipe, Subject

AHEAD = 3
"""Windows that are sent for each worker: one that it measures, and what it goes on with."""
PATIENCE = 120.0
"""Seconds to wait for the first worker, and for a worker to be told what to make."""
LISTEN = 20.0
"""Seconds between two looks at whether there still are workers."""
LOCAL = ("dask", "local")


class DaskCrew:
    """Workers of a cluster.

    Args:
        recipe: how each makes its calculator.
        cluster: ``"dask"`` for processes of this machine, a scheduler's address, its file, or a client.
        workers: how many processes, of this machine.

    Raises:
        EquivProbeError: no such cluster, nobody in it, or a calculator that cannot be sent.
    """

    def __init__(self, recipe: Recipe, cluster: str | Path | Client, workers: int | None = None) -> None:
        self.work = Work()
        self._seen: set[str] = set()
        self._token = f"equiv-probe-{uuid4().hex[:12]}"
        packed = _packed(recipe)
        self._held: list[Any] = []
        self._client = self._connected(cluster, workers)
        try:
            logger.info(f"dashboard of the cluster: {self._client.dashboard_link}")
            self._wait_for_workers()
            self._client.register_plugin(_recipe_plugin(self._token, packed), name=self._token)
        except BaseException:
            self.close()
            raise

    def _connected(self, cluster: str | Path | Client, workers: int | None) -> Client:
        try:
            from distributed import Client, LocalCluster
        except ImportError as error:
            raise EquivProbeError("no distributed", "Dask distributed", "pip install 'equiv-probe[dask]'") from error
        if isinstance(cluster, Client):
            return cluster
        if str(cluster) in LOCAL:
            count = workers or os.cpu_count() or 1
            threads = os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
            # Models hold what they need: a limit would only end workers. Windows are measured one at a time.
            local = LocalCluster(
                n_workers=count,
                threads_per_worker=1,
                memory_limit=0,
                silence_logs=50,
                preload=["equiv_probe_ase.auditing.worker_start"],
                env={"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
            )
            self._held = [local]
            client = Client(local)
        elif Path(cluster).is_file():
            client = _reached(lambda: Client(scheduler_file=str(cluster), timeout=PATIENCE), cluster)
        elif "://" in str(cluster):
            client = _reached(lambda: Client(str(cluster), timeout=PATIENCE), cluster)
        else:
            raise EquivProbeError(
                f"cluster={str(cluster)!r}",
                "'dask' for this machine, a scheduler's address such as tcp://host:8786, or its file",
                "--cluster dask --workers 8",
            )
        self._held = [client, *self._held]
        return client

    def _wait_for_workers(self) -> None:
        try:
            self._client.wait_for_workers(1, timeout=PATIENCE)
        except TimeoutError as error:
            raise EquivProbeError(
                f"the scheduler {self._client.scheduler.address} without workers for {PATIENCE:.0f} s",
                "at least one",
                f"dask worker {self._client.scheduler.address}",
            ) from error

    @property
    def words(self) -> str:
        """Who they were, also those that were lost, for the report."""
        return f"{len(self._seen)} worker{'s' * (len(self._seen) != 1)} of {self._client.scheduler.address}"

    def _workers(self) -> dict[str, Any]:
        found: dict[str, Any] = self._client.nthreads()
        self._seen |= found.keys()
        return found

    def ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """The function's value, of any worker."""
        from distributed import KilledWorker

        try:
            found, work = self._submitted(function, *arguments).result()
        except KilledWorker as error:
            raise EquivProbeError(
                f"a calculator of which {error.allowed_failures + 1} workers died, one after the other",
                "one that they can make, and have the memory for",
                "the same command without --cluster says more",
            ) from error
        self.work += work
        return found

    def _submitted(self, function: Callable[..., Any], *arguments: Any) -> Future:
        return self._client.submit(on_worker, self._token, function, *arguments, pure=False)

    def each(self, windows: Sequence[Window], options: Options) -> Iterator[Records]:
        """Windows as they are finished; a few are on their way at a time, so that memory does not grow with them."""
        from distributed import wait

        waiting = [*reversed(windows)]
        flying: dict[Future, Window] = {}
        while waiting or flying:
            if self._client.status in {"closing", "closed"}:
                address = self._client.scheduler.address
                raise EquivProbeError(
                    f"the scheduler {address}, which is gone", "one that runs", "the same command again"
                )
            room = AHEAD * max(1, len(self._workers()))
            while waiting and len(flying) < room:
                window = waiting.pop()
                flying[self._submitted(measure_window, window, options)] = window
            try:
                done = wait(list(flying), timeout=LISTEN, return_when="FIRST_COMPLETED").done
            except TimeoutError:
                if not self._workers():
                    logger.warning("all workers are gone: waiting for others; Ctrl-C keeps what is done")
                continue
            for future in done:
                window = flying.pop(future)
                try:
                    records, again = self._received(future, window)
                except TimeoutError:
                    if future.status == "error":  # a calculator's own, as of a download
                        raise
                    flying[future] = window  # lost with its worker while it was on its way: computed again
                    continue
                waiting += again
                if records:
                    yield records

    def _received(self, future: Future, window: Window) -> tuple[Records, list[Window]]:
        """A window's records, or what of it is to be sent again."""
        from distributed import KilledWorker

        if future.status not in {"finished", "error"}:  # its worker or the scheduler has lost it
            return [], [window]
        try:
            records, work = future.result(timeout=LISTEN)
        except KilledWorker as error:
            if len(window) > 1:
                return [], [[one] for one in window]
            died = RuntimeError(f"{error.allowed_failures + 1} workers died on it, one after the other")
            return [failure(window[0], died)], []
        self.work += work
        return records, []

    def close(self) -> None:
        """Forget the calculators; end what was started here."""
        with suppress(Exception):  # a scheduler that is gone holds nothing
            self._client.unregister_worker_plugin(self._token)
        for one in self._held:
            with suppress(Exception):
                one.close()


def on_worker(token: str, function: Callable[..., Any], *arguments: Any) -> tuple[Any, Work]:
    """On a worker: a function of the subject that it holds, one at a time, and what that has cost."""
    with _one_at_a_time:
        subject = _subject(token)
        before = Work.of(subject.engine)
        return function(subject, *arguments), Work.of(subject.engine) - before


@dataclass
class _Held:
    """What a worker holds: recipes as they came, and the subject of the latest audit that it worked for."""

    recipes: dict[str, bytes]
    token: str = ""
    subject: Subject | None = None


_held = _Held({})
_one_at_a_time = Lock()


def _subject(token: str) -> Subject:
    if _held.subject is None or _held.token != token:
        patient_until = time.monotonic() + PATIENCE
        while token not in _held.recipes:  # work may reach a worker that came a moment ago before the recipe does
            if time.monotonic() > patient_until:
                raise RuntimeError(f"a worker that was not told what to make for {PATIENCE:.0f} s")
            time.sleep(0.1)
        _choose_gpu()
        _held.subject = None  # one model for each worker
        _held.token, _held.subject = token, pickle.loads(_held.recipes[token]).subject()
    return _held.subject


def _choose_gpu() -> None:
    """Let each worker of a machine with several GPUs see one of them, before anything has looked for them."""
    import torch
    from distributed import get_worker

    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return
    seen = gpu_of(str(get_worker().name), os.environ.get("CUDA_VISIBLE_DEVICES"), torch.cuda.device_count())
    if seen is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = seen


def gpu_of(worker: str, visible: str | None, count: int) -> str | None:
    """Which GPU a worker takes, by the number at the end of its name; None where there is no choice.

    >>> gpu_of("SLURMCluster-5", None, 4), gpu_of("1", "2,3", 2), gpu_of("3", "0", 1)
    ('1', '3', None)
    """
    if count < 2:
        return None
    devices = visible.split(",") if visible else [str(k) for k in range(count)]
    digits = worker[len(worker.rstrip("0123456789")) :]
    return devices[int(digits or 0) % count]


def _recipe_plugin(token: str, packed: bytes) -> Any:
    """Brings the recipe to every worker, also to those that come later."""
    from distributed import WorkerPlugin

    class Recipes(WorkerPlugin):  # type: ignore[misc]
        name = token

        def setup(self, worker: Any) -> None:  # noqa: ARG002 - Dask's interface
            from equiv_probe_ase.auditing.dask_cluster import _held

            _held.recipes[token] = packed

        def teardown(self, worker: Any) -> None:  # noqa: ARG002
            from equiv_probe_ase.auditing.dask_cluster import _held

            _held.recipes.pop(token, None)
            if _held.token == token:
                _held.subject = None

    return Recipes()


def _packed(recipe: Recipe) -> bytes:
    """A recipe as bytes, by value where it is of a script."""
    try:
        import cloudpickle
    except ImportError as error:
        raise EquivProbeError("no distributed", "Dask distributed", "pip install 'equiv-probe[dask]'") from error
    try:
        packed: bytes = cloudpickle.dumps(recipe)
    except Exception as error:  # whatever a library's objects raise
        raise EquivProbeError(
            f"a calculator that cannot be sent to other processes ({type(error).__name__}: {error})",
            "its name, or a function that makes one",
            "audit(lambda: MyCalculator(...), …)",
        ) from error
    return packed


def _reached(connect: Callable[[], Client], cluster: object) -> Client:
    try:
        return connect()
    except (OSError, TimeoutError, ValueError) as error:
        raise EquivProbeError(
            f"no scheduler at {cluster} ({type(error).__name__}: {str(error)[:200]})",
            "the address or the file of one that runs",
            "dask scheduler --scheduler-file cluster.json, then dask worker --scheduler-file cluster.json",
        ) from error
