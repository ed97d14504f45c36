#!/usr/bin/env bash
# The whole pipeline on the machines of a Slurm cluster: a Ray cluster that lasts as long as the job.
#     sbatch --nodes 4 docs/cluster/slurm.sh --root /shared/faces --data /shared/face-gender.zip
# The root is on a disk that all nodes see. Options after the script go to run_all.py. PYTHON names the interpreter (default:
# the .venv of the project), on a disk that all nodes see as well. Two minutes before its time limit Slurm sends TERM: the job
# stops, keeps what is finished, and is queued again.
#SBATCH --job-name=facefold
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --mem=64G
#SBATCH --time=08:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

project=${SLURM_SUBMIT_DIR:-$PWD}
PYTHON=${PYTHON:-$project/.venv/bin/python}
ray=$(dirname "$PYTHON")/ray
cpus=${SLURM_CPUS_PER_TASK:-1}
mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${hosts[0]}
port=$((20000 + SLURM_JOB_ID % 20000))

# --block: when the job ends, Slurm ends what it started, and Ray's processes with it.
export SRUN_CPUS_PER_TASK=$cpus  # since Slurm 22.05 srun does not inherit it from sbatch
srun --nodes 1 --ntasks 1 --nodelist "$head" "$ray" start --head --node-ip-address "$head" --port "$port" --num-cpus "$cpus" --block &
began=$!
until "$ray" health-check --address "$head:$port" > /dev/null 2>&1; do
    kill -0 "$began" 2> /dev/null || { echo "Ray did not start on $head, see above" >&2; exit 1; }
    sleep 2
done
if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
    others=$((SLURM_JOB_NUM_NODES - 1))
    srun --nodes "$others" --ntasks "$others" --exclude "$head" "$ray" start --address "$head:$port" --num-cpus "$cpus" --block &
fi

stopped() {
    kill -TERM "$job"
    wait "$job" || true
    scontrol requeue "$SLURM_JOB_ID"
}
cd "$project"
"$PYTHON" src/run_all.py --engine ray --address "$head:$port" "$@" &
job=$!
trap stopped TERM
code=0
wait "$job" || code=$?
exit "$code"
