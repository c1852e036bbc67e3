#!/bin/bash
# Train on 8 nodes of 8 GPUs, requeued until it is done: sbatch examples/slurm/train-8-nodes.sh
#SBATCH --job-name=idgrpo-train
#SBATCH --nodes=8
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
#SBATCH --signal=TERM@300
#SBATCH --requeue
set -euo pipefail
export IDGRPO_STORE=${IDGRPO_STORE:?a folder that all nodes see}
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_ADDR MASTER_PORT=29500
reward=rm
# The scoring service of examples/slurm/scoring-service.sh writes its address here.
if [ -f "$IDGRPO_STORE/scoring-service" ]; then reward=$(cat "$IDGRPO_STORE/scoring-service"); fi
code=0
srun idgrpo train-policy --base vace --rm "$reward" --set group.num_cases=16 --set group.size=8 || code=$?
# 75: stopped cleanly with a checkpoint; the same command goes on from it.
if [ "$code" -eq 75 ]; then scontrol requeue "$SLURM_JOB_ID"; exit 0; fi
exit "$code"
