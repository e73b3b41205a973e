#!/bin/sh
# Prints the time and the load of the machine, then exits. Run by the schedule in ecosystem.example.toml.

read -r load _ </proc/loadavg
echo "heartbeat: $(date '+%H:%M:%S'), load $load"
