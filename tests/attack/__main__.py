"""Try every attack, print each fault and what makes it again, and last `N tried, M faulty`; status 1 if any is.

Usage: python -m attack [--seed S] [--only ATTACK ...] [--n N | --sample] [--number K] [--project FOLDER]
"""

import argparse
import sys
import tempfile
import time
import traceback
from pathlib import Path

from small_project import import_stages
from tqdm import tqdm

from attack import artefacts, disk, inputs, kills, pairs, submissions, threads
from attack.case import Case, Place, deal
from attack.project import measure_peak_mb

# Each attack, how often it is tried, and how often in a sample; those that fork come before those that compute here.
ATTACKS = {
    "artefacts": (artefacts, 2 * len(artefacts.KINDS), 4),
    "kills": (kills, 50, len(kills.KINDS)),
    "pairs": (pairs, len(pairs.KINDS), 1),
    "disk": (disk, len(disk.KINDS), 3),
    "threads": (threads, len(threads.KINDS), 1),
    "inputs": (inputs, 3 * len(inputs.KINDS), 50),
    "submissions": (submissions, 2000, 100),
}
LIMIT_MB = 1500  # of memory, for any one process


def find_fault(attack: str, case: Case, place: Place) -> str | None:
    """Try one case; an error that it raises is a fault too."""
    try:
        return ATTACKS[attack][0].run(case, place)
    except Exception:
        return traceback.format_exc()


def main() -> int:
    parser = argparse.ArgumentParser(prog="attack", description=__doc__)
    parser.add_argument("--seed", type=int, default=2018)
    parser.add_argument("--only", nargs="+", choices=ATTACKS, default=list(ATTACKS))
    parser.add_argument("--n", type=int, help="cases of each attack; without it, all")
    parser.add_argument("--sample", action="store_true", help="a few cases of each attack")
    parser.add_argument("--project", type=Path, help="folder of the finished project to attack; made if there is none")
    parser.add_argument("--number", type=int, help="try only the case of this number")
    options = parser.parse_args()
    import_stages()
    tried = faulty = 0
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder), options.project)
        for attack in (name for name in ATTACKS if name in options.only):
            module, n, few = ATTACKS[attack]
            start, before = time.monotonic(), faulty
            cases = list(deal(module.KINDS, options.seed, options.n or (few if options.sample else n)))
            wanted = [case for case in cases if options.number in (None, case.number)]
            for case in tqdm(wanted, attack, unit="case", mininterval=5, dynamic_ncols=True):
                tried += 1
                if fault := find_fault(attack, case, place):
                    faulty += 1
                    print(f"{attack}, --seed {options.seed} --number {case.number}: {case.kind}: {fault}", flush=True)
            print(
                f"{attack}: {len(cases)} tried, {faulty - before} faulty, {time.monotonic() - start:.0f} s", flush=True
            )
    peak = measure_peak_mb()
    if peak > LIMIT_MB:
        faulty += 1
        print(f"a process held {peak:.0f} MB, more than {LIMIT_MB}")
    print(f"peak memory of a process: {peak:.0f} MB\n{tried} tried, {faulty} faulty")
    return int(faulty > 0)


if __name__ == "__main__":
    sys.exit(main())
