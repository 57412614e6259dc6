# Sourced, in the project's root, by run_pipeline.sh, run_tests.sh and .ci/run: makes .venv of requirements.txt, the
# lock, where it is missing or out of date, and installs the project into it. Afterwards `$python` is its interpreter.
# With uv, which also brings a Python where none fits, else with a Python 3.11 to 3.13, its pip and the uv of the lock.
#
# NUCLEI_TORCH=cpu or cuda   which build of torch; else the CPU build where no NVIDIA GPU is seen
# NUCLEI_TORCH_INDEX=URL     a package index that has the CPU build, for pip or where uv's own is out of reach

export NO_ALBUMENTATIONS_UPDATE=1 PIP_DISABLE_PIP_VERSION_CHECK=1
unset UV_TORCH_BACKEND  # it would look for the hashes of requirements.txt where other builds are
# uv installs sources alone: were none kept compiled, each process would compile torch anew, which takes 15 s.
unset PYTHONDONTWRITEBYTECODE
python=.venv/bin/python
uv=$(command -v uv || true)

# Whether the interpreter is one of those for which every locked package has wheels.
fits() {
  "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null
}

# Print the command that starts a Python which fits and can make environments.
find_python() {
  local name without_venv=
  for name in python3 python3.13 python3.12 python3.11 python; do
    if ! fits "$name"; then
      continue
    elif "$name" -c 'import ensurepip, venv' 2>/dev/null; then
      echo "$name"
      return
    fi
    without_venv=${without_venv:-$name}
  done
  if [[ $without_venv ]]; then
    echo "error: $without_venv cannot make environments: install its venv package (Debian and Ubuntu: apt install" \
      "python3-venv), or uv, then try again" >&2
  else
    echo "error: neither uv nor a Python 3.11, 3.12 or 3.13 is found: install uv, which brings a Python of its own," \
      "or one of these, then try again" >&2
  fi
  return 1
}

install() {
  if [[ $uv ]]; then
    "$uv" pip install --python "$python" "$@"
  else
    "$python" -m pip install "$@"
  fi
}

# Say every quarter of a minute how far the installation is, while this shell lives: pip while it unpacks, and uv where
# it draws no bars, say nothing for minutes.
report_progress() {
  local total installed started=$SECONDS
  total=$(grep -c '^[a-z].*==' requirements.txt)
  while sleep 1 && kill -0 $$ 2>/dev/null; do
    if (((SECONDS - started) % 15 == 0)); then
      installed=$(compgen -G '.venv/lib/python3*/site-packages/*.dist-info' | wc -l || true)
      echo "  $((SECONDS - started)) s: $installed of $total packages are in .venv, $(du -sh .venv | cut -f1)"
    fi
  done
}

# Print `<package>==<locked version>`.
locked() {
  sed -n "s/^\($1==[^ ]*\).*/\1/p" requirements.txt
}

sees_gpu() {
  compgen -G '/dev/nvidia[0-9]*' >/dev/null || nvidia-smi -L >/dev/null 2>&1
}

wants_cpu_build() {
  case ${NUCLEI_TORCH:-} in
    cpu) return 0 ;;
    cuda) return 1 ;;
    *) [[ $(uname) == Linux ]] && ! sees_gpu ;;  # elsewhere the ordinary build has no CUDA
  esac
}

is_installed() {
  "$python" - "$@" <<'PYTHON'
import sys
from importlib.metadata import PackageNotFoundError, version
try:
    sys.exit(any(version(name) != pin for name, pin in (word.split("==") for word in sys.argv[1:])))
except PackageNotFoundError:
    sys.exit(1)
PYTHON
}

# Install torch and torchvision without CUDA, in the locked versions, from wherever they are found; fail if nowhere.
# These wheels lie in an index of their own, and their hashes differ from the ordinary ones': the lock, which is made
# without that index, cannot have them. The pair is installed together and from one index, for a torchvision finds no
# operators in a torch of another build.
install_cpu_build() {
  echo "installing torch's CPU build (0.2 GB), for no NVIDIA GPU is seen or NUCLEI_TORCH=cpu; NUCLEI_TORCH=cuda asks" \
    "for the other"
  if [[ ${NUCLEI_TORCH_INDEX:-} ]]; then
    install --no-deps --index-url "$NUCLEI_TORCH_INDEX" "$@"
  elif [[ $uv ]]; then
    "$uv" pip install --python "$python" --no-deps --torch-backend cpu "$@"
  else
    # First where pip is told to look, then where uv, a package of the lock, knows it to be.
    "$python" -m pip install --no-deps "$@" 2>/dev/null ||
      .venv/bin/uv pip install --python "$python" --no-deps --torch-backend cpu "$@"
  fi
}

# Print entries of the lock, hashes included: torch's, which are the pair and what its ordinary build brings, uv's, or the
# rest, uv's among them.
print_lock() {
  awk -v wanted="$1" '
    /^[a-z]/ {
      torch = /^(torch|torchvision|triton)==|^(cuda|nvidia)-/
      shown = wanted == "torch" ? torch : wanted == "uv" ? /^uv==/ : !torch
    }
    shown' requirements.txt
}

# Install the packages of a file. Without a uv of the user's, the lock's own installs in seconds what takes pip minutes,
# unless pip is told of an index, of which uv would not know.
install_locked() {
  if [[ ! $uv ]] && ! "$python" -m pip config list | grep -q '[.]index-url'; then
    print_lock uv >"$1.uv"
    "$python" -m pip install --quiet --require-hashes --no-deps --requirement "$1.uv"
    if .venv/bin/uv pip install --python "$python" --require-hashes --no-deps --requirement "$1"; then
      return
    fi
    echo "uv reaches no package index: taking pip, which needs minutes" >&2
  fi
  install --require-hashes --no-deps --requirement "$1"
}

install_packages() {
  local entries=.venv/requirements.txt pair
  pair=("$(locked torch)" "$(locked torchvision)")
  print_lock rest >"$entries"
  echo "1 of 3: $(grep -c == "$entries") packages of requirements.txt"
  install_locked "$entries"
  echo "2 of 3: torch"
  # An ordinary build that is there already was all there was to have.
  if wants_cpu_build && ! is_installed "${pair[@]}"; then
    if is_installed "${pair[@]/%/+cpu}" || install_cpu_build "${pair[@]/%/+cpu}"; then
      return
    fi
    echo "torch's CPU build is not within reach: taking the ordinary one, 3.0 GB to download, 5.3 GB on the disk with" \
      "its CUDA libraries. To avoid them: interrupt, set NUCLEI_TORCH_INDEX to the address of a package index that" \
      "has ${pair[0]}+cpu, start again" >&2
  fi
  print_lock torch >"$entries"
  install_locked "$entries"
}

# Everything that decides what is in .venv. Its folder too: a copied or moved .venv would run the code of the old one.
fingerprint() {
  cat requirements.txt pyproject.toml <(echo "$PWD") | cksum
}

make_environment() {
  local stamp=.venv/installed begun=.venv/installing base progress= started=$SECONDS
  if [[ -x $python && -f $stamp && $(<"$stamp") == "$(fingerprint)" ]]; then
    return
  fi
  if [[ ${NUCLEI_TORCH:-} && $NUCLEI_TORCH != cpu && $NUCLEI_TORCH != cuda ]]; then
    echo "error: NUCLEI_TORCH is $NUCLEI_TORCH; valid: cpu, cuda" >&2
    return 1
  fi
  if [[ -f $begun ]] && kill -0 "$(<"$begun")" 2>/dev/null; then
    echo "error: process $(<"$begun") is installing into .venv: wait for it, then try again" >&2
    return 1
  elif [[ -f $begun ]]; then
    rm -r .venv  # what a killed installation left may lack files of packages that look complete
  fi
  if [[ ! -x $python ]]; then
    echo "making the environment .venv"
    if [[ $uv ]]; then
      "$uv" venv --allow-existing --python '>=3.11,<3.14' .venv
    else
      base=$(find_python)
      "$base" -m venv .venv
    fi
  elif ! fits "$python"; then
    echo "error: .venv is of a Python other than 3.11 to 3.13: remove it, then try again" >&2
    return 1
  elif [[ ! $uv ]] && ! "$python" -c 'import pip' 2>/dev/null; then
    "$python" -m ensurepip  # uv made .venv, and is no longer there
  fi
  echo "installing into .venv: some minutes the first time"
  rm -f "$stamp"
  echo $$ >"$begun"
  if [[ ! $uv || ! -t 2 ]]; then
    report_progress &
    progress=$!
  fi
  install_packages
  echo "3 of 3: this project"
  # Editable, so that .venv/bin/nuclei runs this folder's code from any folder; its build backend is in the lock.
  install --no-deps --no-build-isolation --editable .
  fingerprint >"$stamp"  # last, so that a killed installation is not taken for a finished one
  rm "$begun"
  if [[ $progress ]]; then
    kill "$progress" 2>/dev/null && wait "$progress" 2>/dev/null || true
  fi
  echo "installed in $((SECONDS - started)) s"
}

make_environment
if compgen -G '.venv/lib/python3*/site-packages/torch-*+cpu.dist-info' >/dev/null && sees_gpu; then
  echo "warning: .venv has torch's CPU build, and this machine has a GPU: remove .venv, then try again, to use it" >&2
fi
