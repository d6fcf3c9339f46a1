#!/usr/bin/env bash
# Set up what is missing, then check everything: ruff, mypy, pytest. Arguments go to pytest:
#
#   bash scripts/test.sh                     all but the slow and GPU tests
#   bash scripts/test.sh tests/regions -k box
#   bash scripts/test.sh -m slow
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$root"
bash scripts/setup.sh app dev eval recognize serve train
python="${RGPT_VENV:-$root/.venv}/bin/python"

find_chromium() {
    local name
    for name in ${RGPT_CHROMIUM:+"$RGPT_CHROMIUM"} chromium chromium-browser google-chrome; do
        # Run it: on some systems the apt package is a stub that only says where to get the browser.
        if command -v "$name" >/dev/null 2>&1 && "$name" --version >/dev/null 2>&1; then
            command -v "$name"
            return 0
        fi
    done
    return 1
}

install_chromium() {
    local as_root=()
    command -v apt-get >/dev/null 2>&1 || return 1
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null || return 1
        as_root=(sudo -n)
    fi
    local apt=(${as_root[@]+"${as_root[@]}"} env DEBIAN_FRONTEND=noninteractive apt-get -qq
        -o Acquire::Retries=0 -o Acquire::http::Timeout=20)
    printf 'test.sh: installing Chromium with apt\n'
    "${apt[@]}" update >/dev/null 2>&1 || true
    "${apt[@]}" install -y --no-install-recommends chromium >/dev/null 2>&1
}

if RGPT_CHROMIUM="$(find_chromium)" || { install_chromium && RGPT_CHROMIUM="$(find_chromium)"; }; then
    export RGPT_CHROMIUM
else
    unset RGPT_CHROMIUM
    printf 'test.sh: no Chromium here and apt cannot install it: the browser tests are skipped\n'
fi

# Every check runs even when an earlier one fails, and pytest comes last so that its summary ends the output.
failed=()
check() {
    printf '== %s\n' "$*"
    "$python" -m "$@" || failed+=("$1")
}
check ruff check .
check ruff format --check .
check mypy
[ ${#failed[@]} -eq 0 ] || printf 'test.sh: FAILED before pytest: %s\n' "${failed[*]}"

printf '== pytest\n'
status=0
"$python" -m pytest -q "$@" || status=$?
[ ${#failed[@]} -eq 0 ] || [ "$status" -ne 0 ] || status=1
exit "$status"
