# Sourced, in the project's root, by run_pipeline.sh and run_tests.sh: makes .venv of requirements.txt where it is
# missing or out of date, and sets what every command needs. Afterwards `$python` is the project's interpreter.

export PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}"
export NO_ALBUMENTATIONS_UPDATE=1 PIP_DISABLE_PIP_VERSION_CHECK=1
python=.venv/bin/python

# Print the command that starts Python 3.11; the pins of requirements.txt are for no other version.
find_python() {
  local name
  for name in python3.11 python3; do
    if "$name" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
      echo "$name"
      return
    fi
  done
  echo "error: Python 3.11 is needed, but neither python3.11 nor python3 starts it: install it, then try again" >&2
  return 1
}

requirements_hash() {
  "$1" -c 'import hashlib, pathlib; print(hashlib.sha256(pathlib.Path("requirements.txt").read_bytes()).hexdigest())'
}

make_environment() {
  local stamp=.venv/requirements.sha256 base
  if [[ -x $python && -f $stamp && $(requirements_hash "$python") == "$(<"$stamp")" ]]; then
    return
  fi
  base=$(find_python)
  echo "installing requirements.txt into .venv: a few minutes, once"
  rm -f "$stamp"
  "$base" -m venv .venv
  "$python" -m pip install --quiet --quiet --requirement requirements.txt
  # Last, so that a killed installation is not taken for a finished one.
  requirements_hash "$python" >"$stamp"
}

make_environment
# So that `.venv/bin/python -m nuclei` finds the project from any folder.
echo "$PWD/src" >.venv/lib/python3.11/site-packages/nuclei.pth
