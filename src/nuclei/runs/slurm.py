"""Jobs of SLURM by submitit: what is asked for, and the script that is submitted."""

import os
import shlex
from typing import Any

from nuclei.errors import UserError
from nuclei.runs.backends import Cluster, Needs


def make_executor(cluster: Cluster, needs: Needs, local: bool = False, dry: bool = False) -> Any:
    """Return submitit's executor of tasks with such needs: of SLURM, or `local`; dry: one that only writes scripts."""
    import submitit
    from submitit.slurm.slurm import SlurmExecutor

    class DryExecutor(SlurmExecutor):
        """Write scripts where there is no SLURM."""

        @classmethod
        def affinity(cls) -> int:
            return 1

    folder = cluster.folder.resolve() / "%j"
    gpus = (cluster.gpus or 0) if needs.networks else 0
    if local:
        executor = submitit.LocalExecutor(folder)
        executor.update_parameters(timeout_min=cluster.minutes, gpus_per_node=gpus)
        return executor
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
