#!/usr/bin/env bash
# A study on one machine with GPUs: starts the command again when it was preempted, until it is done.
#
#   launch/gpu_box.sh [--mps=K] [--dry_run] -- --study=experiments/text_quickstart.py --workdir=runs/x
#
# A scale's lanes are spread over all GPUs by one process; that is the default and usually the fastest. --mps=K puts K
# packs side by side on every GPU (through Ray, under NVIDIA's Multi-Process Service): for ladders of many scales so
# small that one pack leaves a GPU idle. Exit codes are those of scaling-jax run.
set -euo pipefail

PREEMPTED=75
dry_run='' mps=1
while (($#)); do
  case $1 in
    --mps=*) mps=${1#*=} ;;
    --dry_run) dry_run=1 ;;
    -h | --help) sed -n '2,/^set /{/^#/!d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}" && exit 0 ;;
    --)
      shift
      break
      ;;
    *) echo "gpu_box.sh: unknown flag '$1'; flags of scaling-jax run stand after --" >&2 && exit 2 ;;
  esac
  shift
done
[[ $mps =~ ^[1-9][0-9]*$ ]] || { echo "gpu_box.sh: --mps=$mps is not a count" >&2 && exit 2; }
(($#)) || { echo "gpu_box.sh: give --study=FILE after --" >&2 && exit 2; }

command=(scaling-jax run "$@")
if ((mps > 1)); then
  command+=(--engine=ray "--engine_option=packs_per_gpu=$mps")
fi
if [[ $dry_run ]]; then
  ((mps == 1)) || echo "+ nvidia-cuda-mps-control -d"
  printf '+' && printf ' %q' "${command[@]}" && echo
  echo "+ again while it exits $PREEMPTED"
  exit 0
fi

if ((mps > 1)); then
  command -v nvidia-cuda-mps-control >/dev/null || { echo "gpu_box.sh: no nvidia-cuda-mps-control here" >&2 && exit 2; }
  # A folder of our own: the service is this user's and ends with this script.
  folder=$(mktemp -d)
  export CUDA_MPS_PIPE_DIRECTORY=$folder CUDA_MPS_LOG_DIRECTORY=$folder
  # By itself the first process would take most of a GPU's memory.
  XLA_PYTHON_CLIENT_MEM_FRACTION=$(awk "BEGIN {print 0.9 / $mps}")
  export XLA_PYTHON_CLIENT_MEM_FRACTION
  nvidia-cuda-mps-control -d
  trap 'echo quit | nvidia-cuda-mps-control; rm -rf "$folder"' EXIT
fi

stopping='' told='' child=''
trap 'stopping=1 told=1; kill -TERM "$child" 2>/dev/null' TERM INT HUP
while true; do
  setsid "${command[@]}" & # away from the terminal, so that Ctrl-C reaches it once, as our SIGTERM
  child=$!
  while true; do # a signal ends the wait, not the command
    code=0
    wait "$child" || code=$?
    [[ $told ]] || break
    told=''
  done
  if [[ $stopping ]] || ((code != PREEMPTED)); then
    exit "$code"
  fi
done
