#!/bin/bash
# Sample with independent jobs that share one run: sbatch examples/slurm/sample-array.sh
# Jobs may start, end and be requeued in any order; the first one that holds the run publishes.
#SBATCH --job-name=idgrpo-sample
#SBATCH --array=0-15
#SBATCH --gpus=1
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
set -euo pipefail
export IDGRPO_STORE=${IDGRPO_STORE:?a folder that all nodes see}
code=0
idgrpo sample --base vace --cases cases --num-per-case 4 --share || code=$?
# 75: stopped cleanly before the time limit; what is finished is kept.
if [ "$code" -eq 75 ]; then scontrol requeue "${SLURM_JOB_ID}"; exit 0; fi
exit "$code"
