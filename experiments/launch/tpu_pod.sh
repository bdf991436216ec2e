#!/bin/bash
# Runs a command on every worker of a TPU slice, where each process has the chips of its worker.
#
#     TPU_NAME=my-slice ZONE=us-east5-a experiments/launch/tpu_pod.sh train --config=configs/ddpm.py --workdir=/mnt/runs/ddpm
#
# The command is train, sample, evaluate or condition. Every worker has the code in $CODE, with its environment in
# $CODE/.venv, and the folder of the run on a file system that all share: Filestore, or a bucket mounted by gcsfuse.
# docs/hosts.md has the details.
set -eu
: "${TPU_NAME:?the name of the TPU slice}" "${ZONE:?its zone}" "${1:?a command: train, sample, evaluate or condition}"
command=$1
shift
there="cd ${CODE:-score_jax} && exec .venv/bin/python experiments/$command.py --distributed"
for flag in "$@"; do
  there+=" $(printf %q "$flag")"
done
exec gcloud compute tpus tpu-vm ssh "$TPU_NAME" --zone="$ZONE" --worker=all --command="$there"
