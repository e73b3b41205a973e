#!/bin/sh
# Prints a line every few seconds and exits cleanly when it is stopped.
# Usage: worker.sh [--every SECONDS]

every=3
if [ "$1" = "--every" ] && [ -n "$2" ]; then
    every=$2
fi

stop() {
    echo "worker: stopping"
    # Stop `sleep` as well; otherwise it would outlive the worker.
    [ -n "$pause" ] && kill "$pause" 2>/dev/null
    exit 0
}
trap stop INT TERM

count=0
while :; do
    count=$((count + 1))
    echo "worker ${NODE_APP_INSTANCE:-0}: ${GREETING:-hello}, line $count"
    # `sleep` runs in the background because a shell handles signals only during `wait`.
    sleep "$every" &
    pause=$!
    wait "$pause"
done
