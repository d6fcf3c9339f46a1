#!/usr/bin/env bash
# Create the virtual environment and install rgpt in it, editable, with the extras asked for.
#
#   bash scripts/setup.sh [--check] [EXTRA ...]        for instance: bash scripts/setup.sh app train dev
#
#   --check       change nothing: the exit status is 0 when nothing is to be done, else 1
#
#   PYTHON=…      the interpreter to build on (default: the first of python3, python3.13 … 3.11 that will do)
#   RGPT_VENV=…   where the environment goes (default: .venv in the repository)
#   RGPT_LOCKED=1 install what requirements.lock names, every file checked against its hash (all extras)
#
# A stamp in the environment remembers the hash of pyproject.toml and the extras installed under it. While both
# still fit there is nothing to do: a second run asks neither pip nor the network.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="${RGPT_VENV:-$root/.venv}"
stamp="$venv/.rgpt-stamp"

die() { printf 'setup.sh: %s\n' "$*" >&2; exit 1; }

sha256() {
    if command -v sha256sum >/dev/null 2>&1; then sha256sum; else shasum -a 256; fi | cut -d ' ' -f 1
}

check=""
if [ "${1:-}" = "--check" ]; then check=1; shift; fi

known="$(sed -n '/^\[project.optional-dependencies\]/,/^\[project.scripts\]/s/^\([a-z]*\) = \[.*/\1/p' "$root/pyproject.toml")"
for extra in "$@"; do
    grep -qx -- "$extra" <<<"$known" || die "there is no extra '$extra' in pyproject.toml; known are: ${known//$'\n'/ }."
done

# The editable install points at this folder, so the folder is part of what the stamp vouches for.
locked="${RGPT_LOCKED:+$root/requirements.lock}"
[ -z "$locked" ] || [ -f "$locked" ] || die "there is no $locked."
key="$( { printf '%s\n' "$root"; cat "$root/pyproject.toml" ${locked:+"$locked"}; } | sha256)"
installed=""
stamped_key=""
if [ -f "$stamp" ]; then
    { read -r stamped_key; read -r installed; } <"$stamp" || true
fi
# Extras of an earlier run are kept: `demo.sh` after `test.sh` must not leave half an environment behind.
wanted="$(printf '%s\n' "$installed" "$@" | tr ' ' '\n' | sed '/^$/d' | LC_ALL=C sort -u | tr '\n' ' ')"
wanted="${wanted% }"
if [ "$stamped_key" = "$key" ] && [ "$wanted" = "$installed" ] && [ -x "$venv/bin/python" ]; then
    exit 0
fi
[ -z "$check" ] || exit 1

version_of() { "$1" -c 'import sys; print("%d %d" % sys.version_info[:2])' 2>/dev/null; }
recent_enough() {
    local major minor
    read -r major minor <<<"$(version_of "$1")" || return 1
    [ -n "${minor:-}" ] && { [ "$major" -gt 3 ] || { [ "$major" -eq 3 ] && [ "$minor" -ge 11 ]; }; }
}
can_make_venv() { "$1" -c 'import ensurepip, venv' >/dev/null 2>&1; }

choose_python() {
    local candidate found="" without_venv=""
    if [ -n "${PYTHON:-}" ]; then
        found="$(version_of "$PYTHON")" || die "PYTHON=$PYTHON cannot be run."
        recent_enough "$PYTHON" || die "rgpt needs Python 3.11 or newer, but PYTHON=$PYTHON is ${found/ /.}."
        can_make_venv "$PYTHON" || die "PYTHON=$PYTHON lacks the venv module (Debian: apt install python3-venv)."
        python="$PYTHON"
        return
    fi
    for candidate in python3 python3.13 python3.12 python3.11; do
        command -v "$candidate" >/dev/null 2>&1 || continue
        if recent_enough "$candidate"; then
            if can_make_venv "$candidate"; then python="$candidate"; return; fi
            without_venv="$candidate"
        else
            found="$(version_of "$candidate")" || true
        fi
    done
    [ -z "$without_venv" ] || die "$without_venv lacks the venv module (Debian: apt install python3-venv)."
    [ -z "$found" ] || die "rgpt needs Python 3.11 or newer, but python3 is ${found/ /.}; install one and name it with PYTHON=…."
    die "no Python was found; install 3.11 or newer, or name one with PYTHON=…."
}

if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    choose_python
    printf 'setup.sh: creating %s with %s\n' "$venv" "$python"
    "$python" -m venv --clear "$venv" || die "could not create $venv."
elif ! recent_enough "$venv/bin/python"; then
    die "$venv was made with a Python older than 3.11; remove it and run this again."
fi

target="$root"
[ -z "$wanted" ] || target="${root}[${wanted// /,}]"
printf 'setup.sh: installing rgpt%s (the first time this downloads several GB)\n' "${target#"$root"}"
rm -f "$stamp"
pip=("$venv/bin/python" -m pip install --quiet --disable-pip-version-check)
if [ -n "$locked" ]; then
    "${pip[@]}" --require-hashes --requirement "$locked" || die "pip could not install requirements.lock; the message above says why."
    # The build backend is among them, so that nothing without a hash is fetched to build this.
    pip+=(--no-deps --no-build-isolation)
fi
"${pip[@]}" --editable "$target" ||
    die "pip could not install rgpt${target#"$root"}; the message above says why."

# Written last and moved into place: an interrupted install leaves no stamp, and the next run installs again.
printf '%s\n%s\n' "$key" "$wanted" >"$stamp.part"
mv "$stamp.part" "$stamp"
