#!/usr/bin/env bash
# Run the tests; arguments go to pytest: ./run_tests.sh -k rle
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
source ./environment.sh
# One thread for each of the processes that share the cores: more of them would wait for each other.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
# No -q here: pyproject.toml has one, and a second would drop the closing line that counts the tests. A file's tests share
# what they set up, so that files are dealt to the processes, each of which takes gigabytes, in the order of conftest.py.
exec "$python" -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder "$@"
