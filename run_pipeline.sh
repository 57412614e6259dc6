#!/usr/bin/env bash
# From archives to submission and report; see usage below.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: ./run_pipeline.sh                               make a synthetic demo data set and run ensembles/demo.yaml on it
       ./run_pipeline.sh CONFIG [--data DIR] [FLAGS]   run a config or an ensemble on the official archives in DIR

CONFIG is a YAML file of configs/ or ensembles/. DIR (default: data) holds stage1_train.zip and stage1_test.zip, and
the solution files where there are any. Paths are looked up in the caller's folder first, then in the project's.
A stage that is up to date is skipped, and a killed one resumes: repeat the command.
Results are in runs/<name of CONFIG>/: submission.csv, metrics.json, report/. FLAGS: .venv/bin/python -m nuclei run --help
TEXT
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# Print a path so that it means in the project's root what it means in the caller's folder, if it is anything there.
from_root() {
  if [[ $1 != /* && -e $1 && ! $1 -ef $root/$1 ]]; then
    echo "$PWD/$1"
  else
    echo "$1"
  fi
}

arguments=()
for argument in "$@"; do
  case $argument in
    -h | --help) usage; exit ;;
    --*=*) arguments+=("${argument%%=*}=$(from_root "${argument#*=}")") ;;
    -*) arguments+=("$argument") ;;
    *) arguments+=("$(from_root "$argument")") ;;
  esac
done

cd "$root"
source ./environment.sh
if [[ $# -eq 0 ]]; then
  "$python" -m nuclei demo --data runs/demo_archives
  arguments=(ensembles/demo.yaml --data runs/demo_archives)
fi
exec "$python" -m nuclei run "${arguments[@]}"
