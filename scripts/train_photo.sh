#!/usr/bin/env bash
# Train `photo` on photographs in COCO's layout: a folder with instances*.json, captions*.json and images/.
#
#   bash scripts/train_photo.sh PHOTOGRAPHS             both stages; a second call goes on where it was stopped
#   bash scripts/train_photo.sh PHOTOGRAPHS --smoke     a few steps of each: for tests
#   bash scripts/train_photo.sh PHOTOGRAPHS --install   also put the result into rgpt/model/photo
#   --work DIR     where everything is written (default: runs/photo, or runs/photo-smoke)
#   --base MODEL   another RegionGPT to start from (default: the fetched base, package:photo)
#
#   RGPT_PYTHON=…  a Python that has the extra train (default: .venv, set up when it is not there)
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
die() { printf 'train_photo.sh: %s\n' "$*" >&2; exit 2; }

photographs="" work="" base="" smoke="" install=""
while [ $# -gt 0 ]; do
    case "$1" in
        --smoke) smoke=1; shift ;;
        --install) install=1; shift ;;
        --work | --base)
            [ $# -ge 2 ] || die "$1 needs a folder."
            if [ "$1" = --work ]; then work="$2"; else base="$2"; fi
            shift 2
            ;;
        -h | --help) sed -n '2,10s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
        -*) die "unknown option '$1'; known are --smoke, --install, --work and --base." ;;
        *) [ -z "$photographs" ] || die "one folder of photographs, not also '$1'."; photographs="$1"; shift ;;
    esac
done
[ -d "$photographs/images" ] || die "give a folder with instances*.json, captions*.json and images/, not '$photographs'."
[ -z "$install" ] || [ -z "$smoke$base" ] || die "--install takes the whole recipe, without --smoke and --base."
photographs="$(cd "$photographs" && pwd)"
[ ! -d "$base" ] || base="$(cd "$base" && pwd)"
[ -z "$work" ] || { mkdir -p "$work" && work="$(cd "$work" && pwd)"; }
work="${work:-runs/photo${smoke:+-smoke}}"

python="${RGPT_PYTHON:-}"
if [ -z "$python" ]; then
    bash "$root/scripts/setup.sh" train
    python="${RGPT_VENV:-$root/.venv}/bin/python"
fi
cd "$root"
export RGPT_PYTHON="$python"
base="${base:-package:photo}"
mkdir -p "$work"
[ -e "$work/photographs.txt" ] || printf '%s\n' "$photographs" >"$work/photographs.txt"
[ "$(cat "$work/photographs.txt")" = "$photographs" ] ||
    die "$work was begun with the photographs of $(cat "$work/photographs.txt"); name another folder with --work."
# A recipe writes into a new folder and only when it is whole, so a folder that is there is finished.
recipe() {
    local out="$1"
    shift
    [ -e "$out/report.json" ] || "$python" -m data_recipes.coco_photos --annotations "$photographs"/instances*.json \
        --captions "$photographs"/captions*.json --images "$photographs/images" --out "$out" ${smoke:+--limit 16} "$@"
}
recipe "$work/names" --form names
recipe "$work/names-held-out" --form names --split held_out
recipe "$work/samples" --copies "$([ -n "$smoke" ] && echo 1 || echo 3)"
recipe "$work/words" --form words
recipe "$work/samples-held-out" --split held_out
"$python" -m rgpt.cli cache-features "$work/names/names.jsonl" "$work/samples/samples.jsonl" --model "$base" \
    --out "$work/features"

run() { # OUT RESULT SCRIPT RUN.yaml key=value ...
    local out="$1" result="$2" resume=()
    shift 2
    [ ! -e "$out/run.yaml" ] || resume=(--resume)
    [ -d "$out/$result" ] || bash "$@" out="$out" features="$work/features" ${resume[@]+"${resume[@]}"}
}
# All cores for one process, whatever the machine: stage 1 contrasts the regions of a whole batch.
export NPROC=1
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$(getconf _NPROCESSORS_ONLN)}"
# glibc hands memory back to the system after each step and asks for it again: a tenth of the time on a CPU.
export MALLOC_TRIM_THRESHOLD_=4000000000 MALLOC_MMAP_THRESHOLD_=4000000000
run "$work/align" delta scripts/pretrain.sh scripts/runs/photo_align.yaml model="$base" \
    data.0.path="$work/names/names.jsonl" held_out.path="$work/names-held-out/names.jsonl" \
    ${smoke:+max_steps=8 log_every=1 batch_size=4 micro_batch_size=4 held_out.every=4 held_out.samples=4}
run "$work/tune" adapter scripts/finetune.sh scripts/runs/photo_tune.yaml model="$work/align/delta" \
    data.0.path="$work/samples/samples.jsonl" data.1.path="$work/words/words.jsonl" \
    held_out.path="$work/samples-held-out/samples.jsonl" \
    ${smoke:+max_steps=4 log_every=1 batch_size=2 micro_batch_size=2 held_out.every=2 held_out.samples=2 save_every=2}
printf 'photo: the trained part is %s\n' "$work/tune/adapter"
if [ -n "$install" ]; then
    # Beside about.json and the model card, which people write; moved into place whole.
    folder=rgpt/model/photo
    rm -rf "$folder.partial"
    cp -R "$folder" "$folder.partial"
    cp "$work"/tune/adapter/* "$folder.partial/"
    cp "$folder/README.md" "$folder.partial/" # not the one that a run writes
    rm -rf "$folder"
    mv "$folder.partial" "$folder"
    printf 'photo: installed as %s\n' "$folder"
fi
