#!/usr/bin/env bash
# Train the embedded model `tiny` from nothing, on drawn scenes, with the paper's two stages.
#
#   bash scripts/train_tiny.sh                   about two hours on two cores; keeps finished phases
#   bash scripts/train_tiny.sh --smoke           every phase once, under three minutes: for tests
#   bash scripts/train_tiny.sh --install         also put the result into rgpt/model/tiny
#   bash scripts/train_tiny.sh --work DIR        where everything is written (default: runs/tiny, or runs/tiny-smoke)
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
bash "$root/scripts/setup.sh" train
cd "$root"
exec "${RGPT_VENV:-$root/.venv}/bin/python" -m scripts.train_tiny "$@"
