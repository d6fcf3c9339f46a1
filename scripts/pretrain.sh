#!/usr/bin/env bash
# Stage 1, align: train refinement and connector on however many GPUs there are.
#
#   bash scripts/pretrain.sh RUN.yaml [key=value ...] [--resume]
#   DS_ACCELERATOR=cpu bash scripts/pretrain.sh RUN.yaml        two processes on a CPU
#
# Several machines: see scripts/torchrun.sh.
set -euo pipefail
# shellcheck disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/torchrun.sh"
launch align "$@"
