"""Each stage, killed halfway and once more at its first write, goes on to the result of one that was left alone."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}


def test_a_killed_stage_goes_on_to_the_same_result(demo_folder, tmp_path):
    script = Path(__file__).with_name("kill_stages.py")
    done = subprocess.run(
        [sys.executable, script, demo_folder, tmp_path], capture_output=True, text=True, env=ENVIRONMENT
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (summary,) = (line for line in done.stdout.splitlines() if line.endswith("differ"))
    assert summary.endswith(" 0 differ"), done.stdout[-2000:]
