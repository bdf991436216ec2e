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
processes=${PROCESSES:-$(nvidia-smi --list-gpus 2>/dev/null | wc -l)}
if ! [ "$processes" -ge 1 ]; then
  echo "error: no GPU is found here by nvidia-smi: say how many processes, PROCESSES=2" >&2
  exit 2
fi
IFS=, read -ra devices <<<"${CUDA_VISIBLE_DEVICES:-$(seq -s, 0 $((processes - 1)))}"
if [ "${#devices[@]}" -lt "$processes" ]; then
  echo "error: CUDA_VISIBLE_DEVICES names ${#devices[@]} device(s) for $processes processes: set PROCESSES to that" >&2
  exit 2
fi
port=${PORT:-$((20000 + RANDOM % 10000))}
started=()
trap 'kill -TERM "${started[@]}"' TERM INT
for ((k = 0; k < processes; k++)); do
  CUDA_VISIBLE_DEVICES=${devices[k]} "${PYTHON:-python}" "experiments/$command.py" "$@" \
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
