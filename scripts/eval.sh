#!/usr/bin/env bash
# Evaluate a model with everything that the given data allows; reports lie in OUT/<task>/report.md.
#
#   bash scripts/eval.sh MODEL                      drawn scenes only: every task, no data needed
#   DATA=/data bash scripts/eval.sh MODEL           and what is found under DATA (see below)
#
#   OUT=runs/eval   where results go; a stopped run goes on there
#   COUNT=200       drawn scenes a task
#   LIMIT=          only the first so many pictures of each data set
#   NPROC=…         processes (default: the machine's GPUs, else 1)
#   RGPT_PYTHON=…   a Python that has the extra eval (default: .venv, set up when it is not there)
#
# Found under DATA: coco/annotations/instances_val2017.json with coco/val2017; lvis/lvis_v1_val.json with coco;
# refcocog/refs(umd).p and refcocog/instances.json with coco/train2014; vg/region_descriptions.json with vg;
# pope/coco_pope_{random,popular,adversarial}.json with coco/val2014.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$root"
model="${1:?usage: bash scripts/eval.sh MODEL (tiny, a folder, or a hub id)}"
python="${RGPT_PYTHON:-}"
if [ -z "$python" ]; then
    bash scripts/setup.sh eval
    python="${RGPT_VENV:-$root/.venv}/bin/python"
fi
out="${OUT:-runs/eval}/$(basename "$model")"
processes="${NPROC:-}"
if [ -z "$processes" ]; then
    processes=1
    if command -v nvidia-smi >/dev/null 2>&1; then
        processes="$(nvidia-smi --list-gpus 2>/dev/null | grep -c '^GPU' || true)"
        [ "$processes" -gt 0 ] || processes=1
    fi
fi
failed=()

# $1: name of the result; the rest: arguments of eval.run
evaluate() {
    local name="$1"
    shift
    local launcher=("$python" -m)
    if [ "$processes" -gt 1 ]; then
        launcher=("$python" -m torch.distributed.run --standalone --nproc_per_node "$processes" -m)
    fi
    printf '\n== %s\n' "$name"
    "${launcher[@]}" eval.run "$@" --model "$model" --out "$out/$name" || failed+=("$name")
}

drawn=(--count "${COUNT:-200}" --seed 1)
evaluate shapes shapes "${drawn[@]}"
evaluate shapes-classification region_classification --data shapes --protocol scored "${drawn[@]}"
evaluate shapes-detection detection --data shapes --proposals gt "${drawn[@]}"
evaluate shapes-multi-turn region_classification --data shapes --ask multi-turn "${drawn[@]}"
evaluate shapes-referring referring --data shapes "${drawn[@]}"
for setting in random popular adversarial; do
    evaluate "shapes-pope-$setting" pope --data shapes --setting "$setting" "${drawn[@]}"
done
if command -v java >/dev/null 2>&1; then
    evaluate shapes-captions region_captioning --data shapes "${drawn[@]}"
else
    echo "eval.sh: captions are left out: METEOR and the tokeniser need a Java runtime (apt install default-jre)"
fi

if [ -n "${DATA:-}" ]; then
    some=(${LIMIT:+--limit "$LIMIT"})
    coco="$DATA/coco"
    instances="$coco/annotations/instances_val2017.json"
    if [ -f "$instances" ] && [ -d "$coco/val2017" ]; then
        for protocol in author-script scored; do
            evaluate "coco-$protocol" region_classification --data "$instances" --images "$coco/val2017" \
                --protocol "$protocol" "${some[@]}"
        done
    fi
    if [ -f "$DATA/lvis/lvis_v1_val.json" ] && [ -d "$coco" ]; then
        evaluate lvis region_classification --data "$DATA/lvis/lvis_v1_val.json" --images "$coco" \
            --protocol scored "${some[@]}"
    fi
    refs="$DATA/refcocog"
    if [ -f "$refs/refs(umd).p" ] && [ -d "$coco/train2014" ]; then
        for split in val test; do
            evaluate "refcocog-$split" referring --data "$refs/refs(umd).p" --instances "$refs/instances.json" \
                --images "$coco/train2014" --split "$split" "${some[@]}"
        done
        if command -v java >/dev/null 2>&1; then
            evaluate refcocog-captions region_captioning --data "$refs/refs(umd).p" --split val \
                --instances "$refs/instances.json" --images "$coco/train2014" "${some[@]}"
        fi
    fi
    if [ -f "$DATA/vg/region_descriptions.json" ] && command -v java >/dev/null 2>&1; then
        evaluate vg-captions region_captioning --data "$DATA/vg/region_descriptions.json" \
            --images "$DATA/vg" "${some[@]}"
    fi
    for setting in random popular adversarial; do
        questions="$DATA/pope/coco_pope_$setting.json"
        if [ -f "$questions" ] && [ -d "$coco/val2014" ]; then
            evaluate "pope-$setting" pope --data "$questions" --images "$coco/val2014" "${some[@]}"
        fi
    done
fi

printf '\nreports: %s/*/report.md\n' "$out"
if [ "${#failed[@]}" -gt 0 ]; then
    printf 'eval.sh: failed: %s\n' "${failed[*]}" >&2
    exit 1
fi
