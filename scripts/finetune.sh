#!/usr/bin/env bash
# Stage 2, tune: train everything but the vision tower (or LoRA, QLoRA) on however many GPUs there are.
#
#   bash scripts/finetune.sh RUN.yaml [key=value ...] [--resume]
#   DS_ACCELERATOR=cpu bash scripts/finetune.sh RUN.yaml        two processes on a CPU
#
# Several machines: see scripts/torchrun.sh.
set -euo pipefail
# shellcheck disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/torchrun.sh"
launch tune "$@"
