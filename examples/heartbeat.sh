#!/bin/sh
# Reports once, then stays until its schedule restarts it.

trap 'kill "$pause" 2>/dev/null; exit 0' INT TERM

echo "heartbeat: alive at $(date '+%H:%M:%S')"
while :; do
    sleep 3600 &
    pause=$!
    wait "$pause"
done
