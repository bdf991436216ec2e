#!/bin/bash
# Trains on the GPUs of several nodes, a process for each GPU.
#
#     sbatch --nodes=2 experiments/launch/slurm.sh --config=configs/ddpm.py --workdir=/shared/runs/ddpm
#
# Everything behind the script's name goes to experiments/train.py. The folder of the run has to be on a file system
# that all nodes share. SLURM tells JAX of the processes, which takes a GPU for each: the one with its number on the
# node. docs/hosts.md has the details.
#SBATCH --job-name=score_jax
#SBATCH --nodes=1
#SBATCH --gpus-per-node=8
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=4
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@180
#SBATCH --requeue
#SBATCH --open-mode=append

# Three minutes before the time is up every process gets SIGTERM: they write a checkpoint and end with code 143. The job
# is then queued again, and goes on from there.
srun --kill-on-bad-exit=1 python experiments/train.py --distributed "$@"
code=$?
if [ "$code" -eq 143 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
