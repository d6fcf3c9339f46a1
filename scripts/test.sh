#!/usr/bin/env bash
# Set up what is missing, then check everything: ruff, mypy, pytest. Arguments go to pytest:
#
#   bash scripts/test.sh                     all but the slow and GPU tests
#   bash scripts/test.sh tests/regions -k box
#   bash scripts/test.sh -m slow
#
#   RGPT_APT=1    install Chromium with apt where there is none; otherwise the command is only said
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$root"
bash scripts/setup.sh app dev eval recognize serve structured train
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

# What a person may run as root for the browser tests; this script does it when told to.
apt=(apt-get -qq -o Acquire::Retries=0 -o Acquire::http::Timeout=20)
[ "$(id -u)" -eq 0 ] || apt=(sudo -n "${apt[@]}")

install_chromium() {
    [ -n "${RGPT_APT:-}" ] && command -v apt-get >/dev/null 2>&1 || return 1
    printf 'test.sh: installing Chromium with apt\n'
    export DEBIAN_FRONTEND=noninteractive
    "${apt[@]}" update >/dev/null 2>&1 || true
    "${apt[@]}" install -y --no-install-recommends chromium >/dev/null 2>&1
}

if RGPT_CHROMIUM="$(find_chromium)" || { install_chromium && RGPT_CHROMIUM="$(find_chromium)"; }; then
    export RGPT_CHROMIUM
else
    unset RGPT_CHROMIUM
    printf 'test.sh: no Chromium here: the browser tests are skipped. With RGPT_APT=1 this script would run, as root:\n'
    printf '    %s\n' "apt-get update" "apt-get install -y --no-install-recommends chromium"
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
