"""Jobs of SLURM by submitit: what is asked for, the script that is submitted, and how the end of a job is noticed."""

import os
import shlex
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from nuclei.errors import UserError
from nuclei.runs.backends import Cluster, Needs

ASK_S = 30  # at most between two questions to SLURM: what died is begun again after that
GONE = "GONE"  # the state of a job that SLURM no longer knows


def make_executor(cluster: Cluster, needs: Needs, local: bool = False, dry: bool = False) -> Any:
    """Return submitit's executor of tasks with such needs: of SLURM, or `local`; dry: one that only writes scripts."""
    import submitit
    from submitit.slurm.slurm import SlurmExecutor

    class DryExecutor(SlurmExecutor):
        """Write scripts where there is no SLURM."""

        @classmethod
        def affinity(cls) -> int:
            return 1

    folder = Path(os.path.realpath(cluster.folder)) / "%j"
    gpus = (cluster.gpus or 0) if needs.networks else 0
    if local:
        executor = submitit.LocalExecutor(folder)
        executor.update_parameters(timeout_min=cluster.minutes, gpus_per_node=gpus)
        return executor
    watch_queue()
    slurm = DryExecutor(folder) if dry else SlurmExecutor(folder)
    slurm.update_parameters(
        job_name="nuclei",
        time=cluster.minutes,
        cpus_per_task=needs.cpus,
        array_parallelism=cluster.workers,
        setup=[f"export {key}={shlex.quote(value)}" for key, value in exported().items()],
        **({"partition": cluster.partition} if cluster.partition else {}),
        **({"gpus_per_node": gpus} if gpus else {}),
        **({"additional_parameters": dict(cluster.sbatch)} if cluster.sbatch else {}),
    )
    return slurm


@cache
def watch_queue() -> None:
    """Have submitit ask squeue, which every site has, what has become of jobs.

    It asks sacct, and hears nothing from a site that keeps no accounts: then it waits for ever for a job that was
    killed.
    """
    from submitit.slurm.slurm import SlurmInfoWatcher, SlurmJob

    class QueueWatcher(SlurmInfoWatcher):
        def _make_command(self) -> list[str] | None:
            wanted = self._registered - self._finished
            return ["squeue", "--me", "--array", "--states=all", "--noheader", "--format=%i|%T|%N"] if wanted else None

        def read_info(self, string: bytes | str) -> dict[str, dict[str, str]]:
            text = string.decode() if isinstance(string, bytes) else string
            return read_queue(text, self._registered)

    SlurmJob.watcher = QueueWatcher(delay_s=ASK_S)


def read_queue(text: str, jobs: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return what squeue's lines, 'job|state|node', say of some jobs, in submitit's words; GONE where it is nothing.

    SLURM forgets a job some minutes after it has ended.
    """
    lines = [line.strip().split("|") for line in text.splitlines() if line.count("|") == 2]
    known = {job: {"JobID": job, "State": state, "NodeList": nodes} for job, state, nodes in lines}
    return {job: known.get(job, {"JobID": job, "State": GONE, "NodeList": ""}) for job in jobs}


def exported() -> dict[str, str]:
    """Return the variables that tasks are to have, even where a site's SLURM passes none on."""
    return {key: value for key, value in sorted(os.environ.items()) if key.startswith("NUCLEI_")}


def write_script(cluster: Cluster, needs: Needs, n_tasks: int) -> str:
    """Return the script by which an array of tasks would be submitted; raise UserError if submitit is not installed."""
    try:
        executor = make_executor(cluster, needs, dry=True)
    except ImportError as error:
        raise UserError("the backend slurm needs a package that is not installed: pip install submitit") from error
    executor.parameters["map_count"] = n_tasks
    text: str = executor._make_submission_file_text(executor._submitit_command_str, "")
    return text
