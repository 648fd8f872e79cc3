#!/usr/bin/env bash
# A Ray cluster for the length of one Slurm job, and one run on it:
#
#   sbatch cluster/slurm.sh cc_coir source.path=/shared/photos --out /shared/runs/cc_coir
#
# Everything after the script's name goes to "datagen run". The source and --out must lie on a
# file system that all nodes share; the environment that has datagen must be active (or activate
# it below). A job that ran out of time goes on where it stopped when sent again.

#SBATCH --job-name=datagen
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --time=12:00:00
#SBATCH --output=datagen-%j.log
# With GPUs, also:
##SBATCH --gpus-per-node=1

set -euo pipefail
: "${SLURM_JOB_ID:?start this script with sbatch}"
# source /shared/venv/bin/activate

# The nodes' network is not private: nobody without this token may use the cluster.
export RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_TOKEN

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
count=${#nodes[@]}
# Two jobs may share a node, so the port follows the number of the job.
port=$((20000 + SLURM_JOB_ID % 10000))
options=(--block --num-cpus="${SLURM_CPUS_PER_TASK:-1}" --disable-usage-stats
         --min-worker-port=0 --max-worker-port=0)

# The steps below end with this script, whatever ends it.
trap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT

srun --nodes=1 --ntasks=1 --nodelist="$head" \
  ray start --head --port="$port" --include-dashboard=false "${options[@]}" &
python -m datagen.cluster.wait "$head:$port" 1
if ((count > 1)); then
  srun --nodes=$((count - 1)) --ntasks=$((count - 1)) --exclude="$head" \
    ray start --address="$head:$port" "${options[@]}" &
  python -m datagen.cluster.wait "$head:$port" "$count"
fi

python -m datagen run "$@" --address "$head:$port"
