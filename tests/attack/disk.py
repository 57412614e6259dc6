"""A disk that is full or read-only, in every stage: one error that names a path, nothing half-written, then the same.

Where this process may mount, the project lies on a small disk of memory; else a limit on the size of files stands for a
full disk, and folders without the right to write for a read-only one.
"""

import os
import resource
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from attack.case import Case, Place
from attack.kills import RUN_OF, STAGES
from attack.project import nuclei

STATES = ("full", "nearly full", "read-only")
KINDS = [f"{state}: {stage}" for stage in STAGES for state in STATES]
PAGE = 4096
SPARE_BYTES = 48 << 20


def run(case: Case, place: Place) -> str | None:
    """Run a stage on such a disk, and once more after it is mended."""
    state, _, stage = case.kind.partition(": ")
    project = place.project
    name = RUN_OF.get(stage, "pair")
    (path,) = (path for path, other in project.tasks if path.stem == name and other == stage)
    arguments = [stage, path, *([] if stage == "report" else ["--data", project.data, "--jobs", "1"])]
    with small_disk(place) as disk:
        copy = project.copy(disk.folder / "project", shutil.copy2)
        project.forget(copy, name, stage)
        room = case.draw().randrange(0, 40) * PAGE if state == "nearly full" else 0
        with disk.spoil(state, room) as prepare:
            if prepare is None:
                print(f"skipped {case.kind}: this process can neither mount a disk nor be kept from writing")
                return None
            outcome = nuclei(arguments, copy, prepare)
        if outcome.status and (fault := outcome.find_fault(str(disk.folder), "runs/")):
            return f"{room} bytes left: {fault}"
        if spoilt := project.find_spoilt(copy):
            return f"half-written: {spoilt[:5]}"
        if (again := nuclei(arguments, copy)).status:
            return f"with space again, status {again.status}: {again.text[-300:]!r}"
        differing = project.compare(copy)
        return f"with space again it left other files: {differing[:5]}" if differing else None


@dataclass(frozen=True)
class Disk:
    """Hold a folder whose disk can be spoilt, mounted for that alone or not."""

    folder: Path
    mounted: bool

    @contextmanager
    def spoil(self, state: str, room: int) -> Iterator[Callable[[], object] | None]:
        """Make the disk full but for some bytes, or read-only; yield what a process has to do first, None: no way."""
        if self.mounted and state == "read-only":
            remount(self.folder, "ro")
            yield lambda: None
            remount(self.folder, "rw")
        elif self.mounted:
            filler = self.folder / "filler"
            fill(filler, room)
            yield lambda: None
            filler.unlink()
        elif state != "read-only":
            limit = max(room // 10, 1)
            yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        elif os.geteuid() == 0:
            yield None  # what has all rights writes anywhere
        else:
            folders = [path for path in self.folder.rglob("*") if path.is_dir()]
            for path in folders:
                path.chmod(0o555)
            yield lambda: None
            for path in folders:
                path.chmod(0o755)


@contextmanager
def small_disk(place: Place) -> Iterator[Disk]:
    """Yield an empty disk with room for the project and little more."""
    folder = place.fresh()
    if not may_mount(place):
        yield Disk(folder, False)
        return
    size = SPARE_BYTES + sum(path.stat().st_size for path in place.project.folder.rglob("*") if path.is_file())
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "attack", folder], check=True)
    try:
        yield Disk(folder, True)
    finally:
        os.chdir(place.folder)
        unmount(folder)


def unmount(folder: Path) -> None:
    """Unmount a disk, whose folder workers of a stage that has ended may still be in: they see that within a second."""
    for _ in range(20):
        if subprocess.run(["umount", folder], capture_output=True).returncode == 0:
            return
        time.sleep(0.5)
    subprocess.run(["umount", folder], check=True)


@cache
def may_mount(place: Place) -> bool:
    """Say whether this process may mount a disk of memory."""
    folder = place.fresh()
    try:
        tried = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "attack", folder], capture_output=True)
    except OSError:
        return False
    if tried.returncode == 0:
        subprocess.run(["umount", folder], check=True)
    return tried.returncode == 0


def remount(folder: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", folder], check=True)


def fill(path: Path, room: int) -> None:
    """Fill the disk with one file, and leave some bytes."""
    free = shutil.disk_usage(path.parent).free
    with path.open("wb") as file:
        try:
            file.write(bytes(max(free - room, 0)))
            file.flush()
        except OSError:
            return  # it is full
