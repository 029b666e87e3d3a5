#!/usr/bin/env bash
# A study on a Cloud TPU VM (v2 to v6e), on spot or on-demand chips, from nothing to a finished workdir.
#
#   launch/tpu_vm.sh run NAME --zone=us-east5-b --accelerator_type=v6e-8 --runtime_version=v2-alpha-tpuv6e \
#       --workdir=gs://BUCKET/STUDY [--on_demand] -- --study=experiments/text_quickstart.py
#   launch/tpu_vm.sh status|logs|delete NAME --zone=...
#
# `run` creates a queued resource whose startup script (startup.sh) trains, follows it, and creates it anew when it was
# preempted (SUSPENDED), until WORKDIR/_SUCCESS exists; then it tears everything down. What stands after `--` goes to
# `scaling-jax run`. Stop this script whenever you like: the TPU goes on, and the same command follows it again.
#
# Exit codes: 0 the study is done; 1 it failed, or the request failed three times in a row; 2 wrong input.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
MAX_FAILURES=3

usage() {
  sed -n '2,/^set /{/^#/!d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"
}

complain() {
  echo "tpu_vm.sh: $*" >&2
  exit 2
}

say() {
  echo "$(date +%H:%M:%S) $*" >&2
}

# Runs a command, or shows it.
act() {
  if [[ $dry_run ]]; then
    printf '+' && printf ' %q' "$@" && echo
  else
    "$@"
  fi
}

parse() {
  action=${1-}
  name=${2-}
  case $action in
    run | status | logs | delete) shift 2 || complain "$action needs a name; see --help" ;;
    -h | --help | help) usage && exit 0 ;;
    *) complain "unknown action '$action'; one of run, status, logs, delete" ;;
  esac
  [[ $name =~ ^[a-z]([-a-z0-9]{0,60}[a-z0-9])?$ ]] || complain "name '$name': lower-case letters, digits and dashes"
  zone='' accelerator_type='' runtime_version='' workdir='' project='' service_account=''
  spot=--spot dry_run='' poll_seconds=30 network=default internal_ips=''
  run_flags=()
  while (($#)); do
    case $1 in
      --zone=*) zone=${1#*=} ;;
      --project=*) project=${1#*=} ;;
      --accelerator_type=*) accelerator_type=${1#*=} ;;
      --runtime_version=*) runtime_version=${1#*=} ;;
      --workdir=*) workdir=${1#*=} ;;
      --service_account=*) service_account=${1#*=} ;;
      --network=*) network=${1#*=} ;;
      --internal_ips) internal_ips=--internal-ips ;;
      --spot) spot=--spot ;;
      --on_demand) spot='' ;;
      --poll_seconds=*) poll_seconds=${1#*=} ;;
      --dry_run) dry_run=1 ;;
      --)
        shift
        run_flags=("$@")
        break
        ;;
      *) complain "unknown flag '$1'; flags of scaling-jax run stand after --" ;;
    esac
    shift
  done
  [[ $zone ]] || complain "give --zone"
  local given
  for given in "$zone" "$project" "$accelerator_type" "$runtime_version" "$network" "$workdir" "$service_account"; do
    # A comma would begin another entry of --metadata.
    [[ $given =~ ^[-A-Za-z0-9._/:@]*$ ]] || complain "'$given': letters, digits, and - . _ / : @ only"
  done
  workdir=${workdir%/}
  launch=$workdir-launch # beside the workdir: a workdir holds results only
  place=(--zone="$zone" ${project:+--project="$project"})
  if [[ $action == run ]]; then
    [[ $workdir == gs://*/* ]] || complain "--workdir must be gs://BUCKET/FOLDER: it outlives every machine"
    [[ $accelerator_type ]] || complain "give --accelerator_type, for example v6e-8"
    [[ $runtime_version ]] || complain "give --runtime_version, for example v2-alpha-tpuv6e"
    [[ $accelerator_type != tpu7x* && $accelerator_type != v7* ]] ||
      complain "v7x lives on GKE and Compute Engine, not in the Cloud TPU API: see launch/jobset.md"
    [[ " ${run_flags[*]-} " == *" --study"* || " ${run_flags[*]-} " == *" --flagfile"* ]] ||
      complain "give --study=FILE (or --flagfile=FILE) after --"
    [[ ${run_flags[*]-} != *$'\n'* ]] || complain "a flag holds a line end, where the next would begin"
  fi
}

# gcloud compute tpus queued-resources VERB NAME, or shows it.
queued() {
  local verb=$1
  shift
  act gcloud compute tpus queued-resources "$verb" "$name" "${place[@]}" "$@"
}

# The state of the request; NONE when there is none, UNKNOWN when Google cannot be asked.
state() {
  if queued describe --format='value(state.state)' 2>"$scratch/error"; then
    return
  elif grep -qi 'not.found' "$scratch/error"; then
    echo NONE
  else
    echo "UNKNOWN ($(tail -n 1 "$scratch/error"))"
  fi
}

# The code goes up once per call: every machine of this study runs the same.
upload() {
  [[ -z $(git -C "$ROOT" status --porcelain 2>/dev/null) ]] ||
    say "note: uncommitted changes of $ROOT are not shipped (git archive HEAD)"
  git -C "$ROOT" archive --format=tar.gz --output="$scratch/source.tar.gz" HEAD
  act gcloud storage cp --quiet "$scratch/source.tar.gz" "$launch/source.tar.gz"
}

create() {
  printf '%s\n' "${run_flags[@]}" >"$scratch/run.flags" # absl's flag file: one a line
  local metadata="scaling-jax-workdir=$workdir,scaling-jax-launch=$launch,scaling-jax-name=$name,scaling-jax-zone=$zone"
  queued create --node-id="$name" \
    --accelerator-type="$accelerator_type" --runtime-version="$runtime_version" ${spot:+"$spot"} \
    --network="$network" ${internal_ips:+"$internal_ips"} ${service_account:+--service-account="$service_account"} \
    --scopes=https://www.googleapis.com/auth/cloud-platform --metadata="$metadata" \
    --metadata-from-file="startup-script=$ROOT/launch/startup.sh,scaling-jax-flags=$scratch/run.flags"
}

delete() {
  queued delete --force --quiet
}

# Of a study that is over: worker 0 deletes too, and may have been faster.
last_delete() {
  delete || say "not deleted by this call; see: tpu_vm.sh status $name"
}

# Stands when the study is over: _SUCCESS is the workdir's own, `failed` is what startup.sh leaves.
finished() {
  gcloud storage ls "$workdir/_SUCCESS" >/dev/null 2>&1
}

failed() {
  gcloud storage cat "$launch/failed" 2>/dev/null
}

follow() {
  local failures=0 last='' now code
  while true; do
    now=$(state) # before the markers: a study that ends in between has its marker already
    if finished; then
      say "done: $workdir"
      [[ $now == NONE ]] || last_delete
      return 0
    fi
    if code=$(failed); then
      say "the study failed with exit code $code; its log is $launch/log.txt"
      [[ $now == NONE ]] || last_delete
      return "$((code == 2 ? 2 : 1))"
    fi
    [[ $now == "$last" ]] || say "$name: $now"
    last=$now
    case $now in
      ACTIVE) failures=0 ;;
      SUSPENDED)
        say "preempted; asking for another"
        { delete && create; } || failures=$((failures + 1))
        ;;
      FAILED)
        failures=$((failures + 1))
        queued describe --format='value(state.failedData.error.message)' >&2 || true
        delete || true
        ((failures >= MAX_FAILURES)) || create || true
        ;;
      NONE) create || failures=$((failures + 1)) ;;
    esac
    if ((failures >= MAX_FAILURES)); then
      say "the request failed $failures times in a row; giving up"
      return 1
    fi
    sleep "$poll_seconds"
  done
}

parse "$@"
scratch=$(mktemp -d)
trap 'rm -r "$scratch"' EXIT
case $action in
  run)
    upload
    if [[ $dry_run ]]; then
      create
      echo "+ then follow: create it again when SUSPENDED, delete it when $workdir/_SUCCESS exists"
      exit 0
    fi
    gcloud storage rm --quiet "$launch/failed" >/dev/null 2>&1 || true # of an earlier try
    trap 'say "stopped following; $name goes on. The same command follows it again; delete ends it"; exit 130' INT TERM
    follow
    ;;
  status) state ;;
  logs) act gcloud compute tpus tpu-vm ssh "$name" "${place[@]}" --worker=0 --command="journalctl -u scaling-jax -n 100 -f" ;;
  delete) delete ;;
esac
