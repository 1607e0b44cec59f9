"""Submit the cells of a grid to Slurm as one array, by submitit."""

from typing import Any

from mura.files import InputError
from mura.training.grid import Cell, Grid


def submit(grid: Grid) -> list[str]:
    """Submit the cells that are left, and return their jobs' names in Slurm: "17_0", "17_1".

    A cell that runs out of time is queued again and goes on from its last epoch.

    Raises:
        InputError: submitit or Slurm is missing, or [slurm] of the grid is wrong.
    """
    cells = grid.left()
    executor = _executor(grid)
    with executor.batch():
        jobs = [executor.submit(_resumable(cell)) for cell in cells]
    return [job.job_id for job in jobs]


def batch_file(grid: Grid) -> str:
    """Return the file that ``submit`` hands to sbatch (raises as it does)."""
    executor, cells = _executor(grid), grid.left()
    if len(cells) > 1:
        executor.parameters["map_count"] = len(cells)
    return executor._make_submission_file_text(executor._submitit_command_str, "")


def _executor(grid: Grid) -> Any:
    try:
        import submitit
    except ImportError:
        todo = "`make cluster`, or `pip install submitit`, installs it."
        raise InputError(
            f"Slurm jobs are submitted by submitit, which is missing; {todo}"
        ) from None
    settings = {"job_name": grid.folder.name, **grid.slurm}
    if "time" not in settings:  # submitit's default is five minutes
        raise InputError("[slurm]: name the minutes that a cell may take, such as time = 240.")
    if cores := settings.get("cpus_per_task"):  # Slurm 22.05 and later: srun does not see sbatch's
        settings.setdefault("srun_args", [f"--cpus-per-task={cores}"])
    try:
        executor = submitit.SlurmExecutor(grid.folder / ".slurm")
        executor.update_parameters(**settings)
    except (RuntimeError, ValueError) as error:  # no srun here; an unknown parameter
        raise InputError(f"[slurm]: {str(error).splitlines()[0]}") from error
    return executor


def _resumable(cell: Cell) -> Any:
    """Return a function that trains a cell, and that submitit queues again after a timeout."""
    from submitit.helpers import Checkpointable, CommandFunction

    class Training(Checkpointable, CommandFunction):
        """Of this function, so that a job needs no import of this package to begin."""

        def __new__(cls, *_: Any, **__: Any) -> Any:
            return object.__new__(cls)

    return Training(cell.command)
