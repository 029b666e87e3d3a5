#!/usr/bin/env bash
# Runs on every worker of a TPU VM when it boots (tpu_vm.sh hands it over as the startup script): installs, trains, and
# lets worker 0 tear the machine down. All it needs stands in the instance's metadata; it holds no secrets.
#
#   startup.sh [--dry_run]
set -euo pipefail

METADATA=${SCALING_JAX_METADATA:-http://metadata.google.internal/computeMetadata/v1/instance}
HOME_DIR=${SCALING_JAX_HOME:-/opt/scaling_jax}
RETRY_SECONDS=${SCALING_JAX_RETRY_SECONDS:-20}
MAX_FAILURES=3
PREEMPTED=75

attribute() {
  curl -sf -H "Metadata-Flavor: Google" "$METADATA/attributes/$1"
}

prepare() {
  [[ ! -e $HOME_DIR/ready ]] || return 0
  # The image's own Python is too old for JAX, so uv brings one.
  python3 -m pip install --quiet --target "$HOME_DIR/uv" uv &&
    mkdir -p "$HOME_DIR/source" &&
    gcloud storage cp --quiet "$launch/source.tar.gz" "$HOME_DIR/source.tar.gz" &&
    tar -xzf "$HOME_DIR/source.tar.gz" -C "$HOME_DIR/source" &&
    PYTHONPATH=$HOME_DIR/uv python3 -m uv venv --quiet --allow-existing --python 3.12 "$HOME_DIR/venv" &&
    PYTHONPATH=$HOME_DIR/uv python3 -m uv pip install --quiet --python "$HOME_DIR/venv/bin/python" \
      "$HOME_DIR/source[gcs]" "jax[tpu]" &&
    attribute scaling-jax-flags >"$HOME_DIR/run.flags" &&
    touch "$HOME_DIR/ready"
}

# The idempotent command in the foreground, told when this script is told to stop.
train() {
  local code
  cd "$HOME_DIR/source"
  "$HOME_DIR/venv/bin/scaling-jax" run --flagfile="$HOME_DIR/run.flags" --workdir="$workdir" &
  child=$!
  while true; do # a signal ends the wait, not the command
    code=0
    wait "$child" || code=$?
    [[ $told ]] || break
    told=''
  done
  return "$code"
}

# Trains until the study is done, gives up or the machine goes; leaves the last exit code in `code`.
persist() {
  local failures=0
  export JAX_COMPILATION_CACHE_DIR=$launch/xla_cache # your bucket: what lies there is loaded as machine code
  while true; do
    code=0
    prepare || code=1
    [[ $stopping ]] || ((code)) || train || code=$?
    echo "scaling-jax: exit $code"
    [[ -z $stopping ]] || exit 0 # the machine goes; tpu_vm.sh asks for another
    case $code in
      0 | 2) return ;;
      "$PREEMPTED") # another worker was told to stop, or has given up
        ! gcloud storage ls "$launch/failed" >/dev/null 2>&1 || return 0
        ;;
      *)
        failures=$((failures + 1))
        ((failures < MAX_FAILURES)) || return 0
        ;;
    esac
    sleep "$RETRY_SECONDS"
  done
}

# What went wrong to the bucket, from whichever worker; then worker 0 alone sends the machine away, so that nothing is
# billed on.
finish() {
  if ((code != 0 && code != PREEMPTED)); then
    journalctl -u scaling-jax -n 500 --no-pager | gcloud storage cp --quiet - "$launch/log.txt" || true
    echo "$code" | gcloud storage cp --quiet - "$launch/failed" || true
  fi
  [[ $(attribute agent-worker-number || echo 0) == 0 ]] || return 0
  gcloud compute tpus queued-resources delete "$(attribute scaling-jax-name)" --zone="$(attribute scaling-jax-zone)" \
    --force --quiet --async
}

if [[ ${1-} == --dry_run ]]; then
  cat <<TEXT
On every worker, as the systemd unit scaling-jax:
  $HOME_DIR/venv: Python 3.12, \$launch/source.tar.gz with [gcs], jax[tpu]
  scaling-jax run --flagfile=$HOME_DIR/run.flags --workdir=\$workdir
    exit 0 done, 75 again, 2 give up, else again, $MAX_FAILURES times at most
Then, on failure: \$launch/log.txt and \$launch/failed, which ends the other workers, too
On worker 0 at last:
  gcloud compute tpus queued-resources delete \$name --zone=\$zone --force --quiet --async
\$workdir, \$launch, \$name and \$zone come from the instance's metadata.
TEXT
  exit 0
fi

# A unit of its own: systemd sends SIGTERM to it at a shutdown, and waits. Startup scripts themselves are not told.
if [[ ${1-} != --now ]]; then
  mkdir -p "$HOME_DIR"
  install -m 755 "${BASH_SOURCE[0]}" "$HOME_DIR/startup.sh"
  exec systemd-run --unit=scaling-jax --collect --property=TimeoutStopSec=90 --property=KillMode=mixed \
    /bin/bash "$HOME_DIR/startup.sh" --now
fi

workdir=$(attribute scaling-jax-workdir)
launch=$(attribute scaling-jax-launch)
stopping='' told='' child=''
trap 'stopping=1 told=1; [[ -z $child ]] || kill -TERM "$child" 2>/dev/null' TERM INT
persist
finish
