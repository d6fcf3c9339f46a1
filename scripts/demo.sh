#!/usr/bin/env bash
# Set up what is missing and open the app in which regions are drawn on a picture and talked about.
#
#   bash scripts/demo.sh [--model photo|tiny|DIR|HUB_ID] [--port 7860] [--sam DIR|HUB_ID]
#                        [--recognizer NAME[@FOLDER]] [--vocabulary V] [--proposals SOURCE]
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
port="7860"
tools=()

die() { printf 'demo.sh: %s\n' "$*" >&2; exit 2; }

while [ $# -gt 0 ]; do
    case "$1" in
        --model | --port | --sam | --recognizer | --vocabulary | --proposals)
            [ $# -ge 2 ] || die "$1 needs a value."
            case "$1" in --port) port="$2" ;; *) tools+=("$1=$2") ;; esac
            shift 2
            ;;
        --model=* | --sam=* | --recognizer=* | --vocabulary=* | --proposals=*) tools+=("$1"); shift ;;
        --port=*) port="${1#*=}"; shift ;;
        -h | --help) sed -n '2,5s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
        *) die "unknown argument '$1'; known are --model, --port, --sam, --recognizer, --vocabulary and --proposals." ;;
    esac
done
if ! [[ "$port" =~ ^[0-9]{1,5}$ ]] || [ "$((10#$port))" -lt 1 ] || [ "$((10#$port))" -gt 65535 ]; then
    die "--port must be a number from 1 to 65535, not '$port'."
fi
if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
    die "port $port of 127.0.0.1 is in use; choose another with --port."
fi

bash "$root/scripts/setup.sh" app
printf 'Opening rgpt at http://127.0.0.1:%s (Ctrl-C stops it)\n' "$port"
export GRADIO_ANALYTICS_ENABLED=False
# From where it was called, so that folders may be named from there; -P: what lies there is not imported.
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
exec "${RGPT_VENV:-$root/.venv}/bin/python" -P -m app.main --port "$port" ${tools[@]+"${tools[@]}"}
