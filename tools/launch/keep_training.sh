#!/usr/bin/env bash
# Runs a training program again and again until it is done or can go no further:
#   tools/launch/keep_training.sh python train.py --config configs/rain200h.py --workdir runs/rain200h
#
# Started again: after 75 (another process is gone), 134 (JAX has given up on another process), 143
# (preempted, state saved), 137 (killed) and whatever else is not the user's to mend.
# Not: after 0 (done), 2 (a mistake, told in one line) and 130 (Ctrl-C); nor when this script itself
# is asked to stop, which it passes on and waits for.
# MAX_RESTARTS: so many in a row without a run of MIN_SECONDS (default 5 and 600).
set -uo pipefail

if [ $# -eq 0 ]; then
  echo "usage: $0 COMMAND [ARGUMENT...]" >&2
  exit 2
fi

max_restarts=${MAX_RESTARTS:-5}
min_seconds=${MIN_SECONDS:-600}
stopping=
child=

pass_on() {
  stopping=1
  [ -n "$child" ] && kill -s "$1" "$child" 2>/dev/null
}
trap 'pass_on TERM' TERM
trap 'pass_on INT' INT

failures=0
while true; do
  began=$SECONDS
  "$@" &
  child=$!
  # A signal to this script ends `wait` early: the program may still be saving.
  while true; do
    wait "$child"
    code=$?
    kill -0 "$child" 2>/dev/null || break
  done
  case $code in
    0 | 2 | 130) exit "$code" ;;
  esac
  [ -n "$stopping" ] && exit "$code"
  if [ $((SECONDS - began)) -lt "$min_seconds" ]; then
    failures=$((failures + 1))
  else
    failures=0
  fi
  if [ "$failures" -gt "$max_restarts" ]; then
    echo "keep_training: exit code $code, $failures times in a row within $min_seconds s: giving up" >&2
    exit "$code"
  fi
  echo "keep_training: exit code $code, starting again" >&2
done
