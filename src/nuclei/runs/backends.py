"""Where work fans out: processes of this machine, a Dask or Ray cluster, or SLURM; how each is opened.

All backends need a folder that every machine sees under the same path, such as an NFS mount: stages talk through files,
and what is sent to a worker and back is no more than names and numbers. An object store will do only where it is
mounted as a folder.
"""

import logging
import os
import shutil
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nuclei.errors import UserError
from nuclei.lifeline import end_with, ending_together, name_process

RETRIES = 2  # of a task whose worker died
IN_FLIGHT = 1000  # tasks that a scheduler is given at a time, so that a hundred thousand take no memory
ARRAY_TASKS = 32  # of SLURM that run at once, unless --jobs says otherwise
POLL_S = 0.2  # how often the jobs of submitit are asked for
LOCAL_RAY = "local"  # Ray's address of a cluster that it starts
RAY_STARTS = 3  # tries
IDLE_S = 300  # after which processes without work end


@dataclass(frozen=True)
class Cluster:
    """Say where work is done side by side.

    workers: tasks at once: processes of loky, workers that Dask or Ray start on this machine, array tasks of SLURM that
    run at once. address: the scheduler of a running Dask or Ray cluster, whose workers are taken instead. gpus: asked
    for each task that trains or applies networks; None: one where Dask or Ray has any. partition, minutes, sbatch: of
    SLURM, the last as (option, value). folder: where submitit keeps tasks, results and logs.
    """

    backend: str = "loky"
    workers: int = 1
    address: str | None = None
    gpus: int | None = None
    partition: str | None = None
    minutes: int = 240
    sbatch: tuple[tuple[str, str], ...] = ()
    folder: Path = Path("runs/.jobs")


@dataclass(frozen=True)
class Needs:
    """Say what a task needs.

    threads: with which it computes; helpers: processes of its own; networks: whether it trains or applies networks, so
    that a GPU serves it.
    """

    threads: int = 1
    helpers: int = 0
    networks: bool = False

    @property
    def cpus(self) -> int:
        """Return how many cores it keeps busy."""
        return self.threads + self.helpers


class Engine(ABC):
    """Run functions on workers, which are other processes unless `here`.

    lost: what a future raises whose worker died; retries: how often such a task is to be submitted again, 0 where the
    scheduler itself does that; room: tasks it is given at a time; shares_fate: whether all its tasks are lost with one
    worker.
    """

    here = False
    lost: tuple[type[BaseException], ...] = ()
    retries = 0
    room = IN_FLIGHT
    shares_fate = False

    @abstractmethod
    def submit(self, function: Callable[..., Any], tasks: Sequence[Sequence[Any]], needs: Needs) -> list[Any]:
        """Submit `function(*task)` for each task and return their futures."""

    def chunk(self, n: int) -> int:  # noqa: ARG002 (of n calls, which some engines do one by one)
        """Return how many of n calls are to make one task."""
        return 1

    def wait(self, futures: Collection[Any]) -> Iterable[Any]:
        """Wait until some are done and return those."""
        return wait(futures, return_when=FIRST_COMPLETED).done

    def collect(self, future: Any) -> Any:
        """Return the result of one that is done, or raise what it raised."""
        return future.result()

    def cancel(self, futures: Collection[Any]) -> None:
        """Give up futures, whether they have begun or not."""
        for future in futures:
            future.cancel()


class Sequential(Engine):
    """Run each task in this process when it is submitted."""

    here = True
    room = 1

    def submit(self, function: Callable[..., Any], tasks: Sequence[Sequence[Any]], needs: Needs) -> list[Any]:  # noqa: ARG002
        """Run the tasks and return futures of what they returned."""
        futures: list[Future[Any]] = []
        for task in tasks:
            futures.append(Future())
            futures[-1].set_result(function(*task))
        return futures


class Loky(Engine):
    """Run tasks in processes of this machine, kept for the next tasks."""

    retries = RETRIES
    shares_fate = True  # of one process that is killed, loky ends them all

    def __init__(self, workers: int):
        from joblib.externals.loky.process_executor import BrokenProcessPool

        self.workers, self.lost, self.room = workers, (BrokenProcessPool,), 2 * workers

    def submit(self, function: Callable[..., Any], tasks: Sequence[Sequence[Any]], needs: Needs) -> list[Any]:
        """Submit tasks to the processes, new ones if those of before were killed."""
        from joblib.externals.loky import get_reusable_executor

        futures: list[Future[Any]] = []
        for task in tasks:
            try:
                executor = get_reusable_executor(
                    self.workers,
                    timeout=IDLE_S,
                    env=thread_variables(needs.threads),
                    initializer=end_with,
                    initargs=(name_process(),),
                )
                futures.append(executor.submit(function, *task))
            except self.lost as error:  # a process was killed just now
                futures.append(Future())
                futures[-1].set_exception(error)
        return futures

    def cancel(self, futures: Collection[Any]) -> None:  # noqa: ARG002
        """End all processes: a task that has begun cannot be stopped otherwise."""
        stop_workers()


def thread_variables(threads: int) -> dict[str, str]:
    """Return the environment variables that have numerical libraries compute with some threads, as joblib sets them."""
    from joblib.parallel import ParallelBackendBase

    return dict.fromkeys(ParallelBackendBase.MAX_NUM_THREADS_VARS, str(threads)) | {"ENABLE_IPC": "1"}


def stop_workers() -> None:
    """End the processes that loky has started, whatever they are doing."""
    from joblib.externals.loky import get_reusable_executor

    get_reusable_executor(reuse=True).shutdown(kill_workers=True)


class Dask(Engine):
    """Run tasks on the workers of a Dask client; of one that dies the scheduler gives them to another."""

    def __init__(self, client: Any, cluster: Cluster):
        from distributed import KilledWorker

        self.executor, self.lost = client.get_executor(pure=False), (KilledWorker,)
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
        if not workers:
            print("dask: the scheduler has no workers yet, and work waits for them", flush=True)
        has_gpus = any("GPU" in worker["resources"] for worker in workers)
        self.gpus = int(has_gpus) if cluster.gpus is None else cluster.gpus
        if self.gpus and not has_gpus:
            raise UserError(
                'no Dask worker has a GPU to be asked for: start them with --resources "GPU=1", or --gpus 0'
            )

    def submit(self, function: Callable[..., Any], tasks: Sequence[Sequence[Any]], needs: Needs) -> list[Any]:
        """Submit tasks, those with networks to workers that were started with GPUs, if any were."""
        resources = {"GPU": self.gpus} if self.gpus and needs.networks else None
        return [self.executor.submit(function, *task, resources=resources) for task in tasks]


class Ray(Engine):
    """Run tasks on a Ray cluster, which gives those of a worker that dies to another."""

    def __init__(self, cluster: Cluster):
        import ray

        self.lost = (ray.exceptions.RayError,)
        self.most_cpus = max((node["Resources"].get("CPU", 0) for node in ray.nodes()), default=1)
        self.gpus = min(1, int(ray.cluster_resources().get("GPU", 0))) if cluster.gpus is None else cluster.gpus
        self.references: dict[Future[Any], Any] = {}

    def submit(self, function: Callable[..., Any], tasks: Sequence[Sequence[Any]], needs: Needs) -> list[Any]:
        """Submit tasks, those with networks with the GPUs that they are to have."""
        import ray

        remote = ray.remote(function).options(
            num_cpus=min(needs.cpus, self.most_cpus), num_gpus=self.gpus if needs.networks else 0, max_retries=RETRIES
        )
        references = [remote.remote(*task) for task in tasks]
        futures = [reference.future() for reference in references]
        self.references |= dict(zip(futures, references, strict=True))
        return futures

    def wait(self, futures: Collection[Any]) -> Iterable[Any]:
        """Wait until some are done and return those."""
        done = list(super().wait(futures))
        for future in done:
            self.references.pop(future, None)
        return done

    def cancel(self, futures: Collection[Any]) -> None:
        """Have Ray end the tasks, those that have begun with their workers."""
        import ray

        for future in futures:
            ray.cancel(self.references.pop(future), force=True)


class Submitit(Engine):
    """Run tasks as jobs of submitit: array tasks of SLURM or, with `local`, processes of this machine."""

    retries = RETRIES

    def __init__(self, cluster: Cluster, local: bool):
        from submitit.core.utils import UncompletedJobError

        self.cluster, self.local, self.lost = cluster, local, (UncompletedJobError,)
        self.room = cluster.workers if local else 10**6

    def chunk(self, n: int) -> int:
        """Return how many calls make a task so that all are under way at once: an array task takes long to start."""
        return max(1, -(-n // self.cluster.workers))

    def submit(self, function: Callable[..., Any], tasks: Sequence[Sequence[Any]], needs: Needs) -> list[Any]:
        """Submit tasks as one array."""
        from nuclei.runs.slurm import make_executor

        executor = make_executor(self.cluster, needs, self.local)
        columns = [list(column) for column in zip(*tasks, strict=True)]
        with ending_together() if self.local else nullcontext():
            return list(executor.map_array(function, *columns))

    def wait(self, futures: Collection[Any]) -> Iterable[Any]:
        """Ask for the jobs until some are done and return those."""
        while not (done := [job for job in futures if job.done()]):
            time.sleep(POLL_S)
        return done

    def collect(self, future: Any) -> Any:
        """Return the result of a job and remove its folder; that of one that failed stays, with its log."""
        result = future.result()
        shutil.rmtree(future.paths.folder, ignore_errors=True)
        return result

    def cancel(self, futures: Collection[Any]) -> None:
        """Have SLURM end the jobs, or forget them where they wait."""
        for job in futures:
            job.cancel(check=False)


@contextmanager
def open_dask(cluster: Cluster) -> Iterator[Engine]:
    """Yield the engine of the Dask cluster at an address, or of one of this machine."""
    import dask
    from distributed import Client

    connect: Any = Client  # which has no types
    local = {"n_workers": cluster.workers, "threads_per_worker": 1, "dashboard_address": ":0"}
    # A worker that trains starts processes, which daemons may not.
    settings = {"distributed.scheduler.allowed-failures": RETRIES, "distributed.worker.daemon": False}
    with dask.config.set({} if cluster.address else settings):
        try:
            client = connect(cluster.address) if cluster.address else connect(**local)
        except OSError as error:
            raise UserError(
                f"no Dask scheduler answers at {cluster.address}: give the address that it prints"
            ) from error
        with client:
            yield Dask(client, cluster)


@contextmanager
def open_ray(cluster: Cluster) -> Iterator[Engine]:
    """Yield the engine of the Ray cluster at an address, of that which this process uses, or of one of this machine."""
    import ray

    if ray.is_initialized():
        yield Ray(cluster)
        return
    variables = {key: value for key, value in os.environ.items() if key.startswith("NUCLEI_")}
    settings: dict[str, Any] = {"runtime_env": {"env_vars": variables}} if variables else {}
    # Without an address Ray would join any cluster of this machine, also what a killed one left of its own.
    address = cluster.address or os.environ.get("RAY_ADDRESS") or LOCAL_RAY
    if address == LOCAL_RAY:
        settings |= {"num_cpus": cluster.workers, "include_dashboard": False}
    try:
        start_ray(address, settings)
        yield Ray(cluster)
    finally:
        ray.shutdown()


def start_ray(address: str, settings: dict[str, Any]) -> None:
    """Connect to a Ray cluster or start one; raise UserError if none answers, or this machine is too busy to start it.

    On a busy machine Ray's own processes miss each other by a limit of 15 seconds that cannot be set (ray-project/ray
    issue 65983), and do better once the disk's cache is warm.
    """
    import ray

    for left in reversed(range(RAY_STARTS)):
        handler = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(address, logging_level=logging.WARNING, **settings)
            signal.signal(signal.SIGTERM, handler)  # Ray's own would end the process without a word
            return
        except ConnectionError as error:
            raise UserError(
                f"no Ray cluster answers at {address}: give the address that `ray start` printed"
            ) from error
        except Exception as error:
            ray.shutdown()
            if "timed out during startup" not in str(error):
                raise
            if not left:
                raise UserError(
                    "Ray does not start here, most likely because this machine is busy: try again, or start it by "
                    "`ray start --head` and name it by --address auto"
                ) from error


@contextmanager
def open_submitit(cluster: Cluster) -> Iterator[Engine]:
    """Yield the engine of submitit; raise UserError where there is no SLURM to submit to."""
    local = cluster.backend == "local"
    if not local and not shutil.which("sbatch"):
        raise UserError("the backend slurm submits by sbatch, which is not installed here: run this on a login node")
    yield Submitit(cluster, local)


@contextmanager
def open_loky(cluster: Cluster) -> Iterator[Engine]:
    """Yield the engine of processes of this machine; of one worker, this process."""
    yield Loky(cluster.workers) if cluster.workers > 1 else Sequential()


@contextmanager
def open_sequential(cluster: Cluster) -> Iterator[Engine]:  # noqa: ARG001 (the form of all)
    """Yield the engine that does one task after the other in this process."""
    yield Sequential()


@dataclass(frozen=True)
class Backend:
    """Describe a backend: what it is, as the command line says it, how it is opened, and the package that it needs."""

    help: str
    open: Callable[[Cluster], AbstractContextManager[Engine]]
    package: str | None = None


BACKENDS = {
    "loky": Backend("processes of this machine", open_loky),
    "dask": Backend("a Dask cluster, of this machine or at --address", open_dask, "distributed"),
    "ray": Backend("a Ray cluster, of this machine or at --address", open_ray, "ray"),
    "slurm": Backend("jobs of SLURM, submitted from here", open_submitit, "submitit"),
    "local": Backend("what slurm does, in processes of this machine, to try it", open_submitit, "submitit"),
    "sequential": Backend("one task after the other in this process", open_sequential),
}


def check_cluster(cluster: Cluster) -> None:
    """Raise UserError listing the backends on an unknown one, and on options that are of another backend."""
    if cluster.backend not in BACKENDS:
        raise UserError(f"unknown backend {cluster.backend}; valid: {', '.join(BACKENDS)}")
    if cluster.address and cluster.backend not in ("dask", "ray"):
        raise UserError(f"--address {cluster.address}: only the backends dask and ray have one")
    if cluster.backend != "slurm" and (cluster.partition or cluster.sbatch):
        raise UserError(f"--partition and --sbatch are for --backend slurm, not {cluster.backend}")


@contextmanager
def open_backend(cluster: Cluster) -> Iterator[Engine]:
    """Yield the engine of a backend, with local workers of its own where no cluster's address is given.

    Raises UserError as check_cluster does, naming the package that a backend lacks, and where no cluster answers.
    """
    check_cluster(cluster)
    backend = BACKENDS[cluster.backend]
    with ExitStack() as stack:
        try:
            engine = stack.enter_context(backend.open(cluster))
        except ImportError as error:
            raise UserError(
                f"the backend {cluster.backend} needs a package that is not installed: pip install {backend.package}"
            ) from error
        yield engine


_ACTIVE: ContextVar[Engine | None] = ContextVar("engine", default=None)


@contextmanager
def fan_out(cluster: Cluster) -> Iterator[None]:
    """Have whatever fans out in this block do so on a backend; on loky each decides how many processes it takes."""
    check_cluster(cluster)
    if cluster.backend == "loky":
        yield
        return
    with open_backend(cluster) as engine:
        token = _ACTIVE.set(engine)
        try:
            yield
        finally:
            _ACTIVE.reset(token)


def active_engine() -> Engine | None:
    """Return the engine of the block of `fan_out` that this is in, None outside of one and in workers."""
    return _ACTIVE.get()
