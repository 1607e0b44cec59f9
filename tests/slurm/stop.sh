#!/usr/bin/env bash
# Stop what tests/slurm/start.sh FOLDER started, and the jobs that still run in it.
set -uo pipefail
folder=$(realpath -m "$1")
export SLURM_CONF="$folder/slurm.conf"
scancel --user="$(id -un)" 2> /dev/null
for name in slurmd slurmctld munged; do
    if process=$(cat "$folder/$name.pid" 2> /dev/null); then
        kill "$process"
        while kill -0 "$process" 2> /dev/null; do sleep 0.1; done
    fi
done
