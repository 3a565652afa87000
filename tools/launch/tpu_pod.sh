#!/usr/bin/env bash
# Installs this checkout on every host of a TPU VM slice, or starts training there. Run it on your
# own machine, in a checkout, where gcloud is set up:
#   export TPU=my-slice ZONE=us-west4-a
#   tools/launch/tpu_pod.sh install
#   tools/launch/tpu_pod.sh train --config configs/rain200h.py --workdir gs://BUCKET/runs/x ...
#   tools/launch/tpu_pod.sh log          # of the first host
#   tools/launch/tpu_pod.sh stop         # saves, then ends all of them
set -euo pipefail

usage() {
  sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
  exit 2
}

: "${TPU:?set TPU to the name of the slice}" "${ZONE:?set ZONE to its zone}"
[ $# -ge 1 ] || usage
action=$1
shift

on_all() {
  gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker="${WORKER:-all}" --command="$1"
}

case $action in
  install)
    archive=$(mktemp --suffix=.tar.gz)
    trap 'rm -f "$archive"' EXIT
    git archive --format=tar.gz --prefix=drsformer_jax/ --output="$archive" HEAD
    gcloud compute tpus tpu-vm scp "$archive" "$TPU":drsformer_jax.tar.gz --zone="$ZONE" --worker=all
    on_all "tar xzf drsformer_jax.tar.gz && cd drsformer_jax && \
      ${PYTHON:-python3.11} -m venv .venv && .venv/bin/pip install --quiet '.[gcs,tpu]'"
    ;;
  train)
    flags=$(printf ' %q' "$@")
    # Each host keeps its programs of the last run: a restart compiles nothing.
    on_all "cd drsformer_jax && export JAX_COMPILATION_CACHE_DIR=\$HOME/jax-cache && \
      setsid nohup tools/launch/keep_training.sh .venv/bin/python train.py --distributed$flags \
      > \$HOME/train.log 2>&1 < /dev/null & sleep 5; tail -n 5 \$HOME/train.log"
    ;;
  log)
    WORKER=0 on_all "tail -n 40 \$HOME/train.log"
    ;;
  stop)
    on_all "pkill -TERM -f tools/launch/keep_training.sh"
    ;;
  *) usage ;;
esac
