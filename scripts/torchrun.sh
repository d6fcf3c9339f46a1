# Sourced by pretrain.sh and finetune.sh: check the run, count the processes, launch them.
#
#   RGPT_PYTHON=…   a Python that has the extra train (default: .venv, set up when it is not there)
#   NPROC=…         processes on this machine (default: its GPUs; 2 with DS_ACCELERATOR=cpu; else 1)
#
# Several machines, plain ssh: the same command on each, with NNODES=4 NODE_RANK=0…3 MASTER_ADDR=first-machine.
# Several machines, SLURM: `srun --nodes 4 --ntasks-per-node 1 bash scripts/finetune.sh RUN.yaml`; the three are
# then read from SLURM. `out` must be on a disk that all of them see.
# shellcheck shell=bash

# $1: the stage; the rest: RUN.yaml [key=value ...] [--resume]
launch() {
    local stage="$1" root python
    shift
    root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
    cd "$root" || exit 1
    python="${RGPT_PYTHON:-}"
    if [ -z "$python" ]; then
        bash scripts/setup.sh train
        python="${RGPT_VENV:-$root/.venv}/bin/python"
    fi
    if [ -n "${SLURM_NNODES:-}" ] && [ -n "${SLURM_NODEID:-}" ]; then
        NNODES="${NNODES:-$SLURM_NNODES}"
        NODE_RANK="${NODE_RANK:-$SLURM_NODEID}"
        if [ -z "${MASTER_ADDR:-}" ] && command -v scontrol >/dev/null 2>&1; then
            MASTER_ADDR="$(scontrol show hostnames "${SLURM_JOB_NODELIST:-}" | head -n 1)"
        fi
    fi
    local nodes="${NNODES:-1}" processes="${NPROC:-}"
    if [ -z "$processes" ]; then
        processes=1
        if [ "${DS_ACCELERATOR:-}" = cpu ]; then
            processes=2
        elif command -v nvidia-smi >/dev/null 2>&1; then
            processes="$(nvidia-smi --list-gpus 2>/dev/null | grep -c '^GPU' || true)"
            [ "$processes" -gt 0 ] || processes=1
        fi
    fi
    # One process first: a mistake is then one sentence, not one a process and a report of the launcher.
    "$python" -m rgpt.train.run "$@" --stage "$stage" --check --processes "$((processes * nodes))" || exit $?
    local where=(--standalone)
    if [ "$nodes" -gt 1 ]; then
        where=(--nnodes "$nodes" --node_rank "${NODE_RANK:?NODE_RANK is needed with NNODES}"
            --master_addr "${MASTER_ADDR:?MASTER_ADDR is needed with NNODES}" --master_port "${MASTER_PORT:-29500}")
    fi
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
    exec "$python" -m torch.distributed.run "${where[@]}" --nproc_per_node "$processes" \
        -m rgpt.train.run "$@" --stage "$stage"
}
