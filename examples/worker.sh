#!/bin/sh
# Prints a line every few seconds and ends cleanly when it is told to.
# Usage: worker.sh [--every SECONDS]

every=3
if [ "$1" = "--every" ] && [ -n "$2" ]; then
    every=$2
fi

stop() {
    echo "worker: told to stop, goodbye"
    # The pause goes too, or it would outlive the worker.
    [ -n "$pause" ] && kill "$pause" 2>/dev/null
    exit 0
}
trap stop INT TERM

count=0
while :; do
    count=$((count + 1))
    echo "worker ${NODE_APP_INSTANCE:-0}: ${GREETING:-hello}, line $count"
    # A shell notices signals while it waits, not while a program runs in the foreground.
    sleep "$every" &
    pause=$!
    wait "$pause"
done
