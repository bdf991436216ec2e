#!/bin/bash
# Runs a command on this machine in a process for each GPU.
#
#     experiments/launch/one_node.sh train --config=configs/ddpm.py --workdir=runs/ddpm
#
# One process takes all GPUs by itself, with nothing to launch, and that is what to begin with: several are for where
# the host's part, reading and decoding, takes longer than the GPUs' and should run for each. $PROCESSES: how many, by
# default the number of GPUs. $PORT: where they meet. The command is train, sample, evaluate or condition.
set -u
: "${1:?a command: train, sample, evaluate or condition}"
command=$1
shift
processes=${PROCESSES:-$(nvidia-smi --list-gpus | wc -l)}
port=${PORT:-$((20000 + RANDOM % 10000))}
started=()
trap 'kill -TERM "${started[@]}"' TERM INT
for ((k = 0; k < processes; k++)); do
  CUDA_VISIBLE_DEVICES=$k "${PYTHON:-python}" "experiments/$command.py" "$@" \
    --coordinator="localhost:$port" --num_processes="$processes" --process_id="$k" &
  started+=($!)
done
code=0
for one in "${started[@]}"; do
  wait "$one"
  ended=$?
  while kill -0 "$one" 2>/dev/null; do # a signal ended the waiting: it went to the processes, which are not done yet
    wait "$one"
    ended=$?
  done
  [ "$ended" -eq 0 ] || code=$ended
done
exit "$code"
