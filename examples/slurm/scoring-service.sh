#!/bin/bash
# A reward model on GPUs of its own: sbatch examples/slurm/scoring-service.sh, then start the training.
#SBATCH --job-name=idgrpo-rm
#SBATCH --gpus=2
#SBATCH --cpus-per-task=8
#SBATCH --time=12:30:00
set -euo pipefail
export IDGRPO_STORE=${IDGRPO_STORE:?a folder that all nodes see}
echo "http://$(hostname):8300" > "$IDGRPO_STORE/scoring-service"
trap 'rm -f "$IDGRPO_STORE/scoring-service"' EXIT
idgrpo artifacts serve rm --device cuda:0 --device cuda:1 --host 0.0.0.0 --port 8300 --allow-host "$(hostname)" --max-waiting 64
