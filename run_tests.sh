#!/usr/bin/env bash
# Run the tests; arguments go to pytest: ./run_tests.sh -k rle
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
source ./environment.sh
# No -q here: pyproject.toml has one, and a second would drop the closing line that counts the tests.
exec "$python" -m pytest "$@"
