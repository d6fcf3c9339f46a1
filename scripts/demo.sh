#!/usr/bin/env bash
# Set up what is missing and open the app in which regions are drawn on a picture and talked about.
#
#   bash scripts/demo.sh [--model tiny|DIR|HUB_ID] [--sam DIR|HUB_ID] [--port 7860]
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
here="$PWD"
model="tiny"
port="7860"
sam=""

die() { printf 'demo.sh: %s\n' "$*" >&2; exit 2; }

while [ $# -gt 0 ]; do
    case "$1" in
        --model | --port | --sam)
            [ $# -ge 2 ] || die "$1 needs a value."
            case "$1" in --model) model="$2" ;; --sam) sam="$2" ;; *) port="$2" ;; esac
            shift 2
            ;;
        --model=*) model="${1#*=}"; shift ;;
        --sam=*) sam="${1#*=}"; shift ;;
        --port=*) port="${1#*=}"; shift ;;
        -h | --help) sed -n '2,4s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
        *) die "unknown argument '$1'; known are --model, --sam and --port." ;;
    esac
done
if ! [[ "$port" =~ ^[0-9]{1,5}$ ]] || [ "$((10#$port))" -lt 1 ] || [ "$((10#$port))" -gt 65535 ]; then
    die "--port must be a number from 1 to 65535, not '$port'."
fi
# The app runs from the repository, so a folder named from elsewhere is made absolute first.
[ "$model" = tiny ] || [ ! -d "$here/$model" ] || model="$(cd "$here/$model" && pwd)"
[ -z "$sam" ] || [ ! -d "$here/$sam" ] || sam="$(cd "$here/$sam" && pwd)"
if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
    die "port $port of 127.0.0.1 is in use; choose another with --port."
fi

bash "$root/scripts/setup.sh" app
cd "$root"
printf 'Opening rgpt with the model %s at http://127.0.0.1:%s (Ctrl-C stops it)\n' "$model" "$port"
export GRADIO_ANALYTICS_ENABLED=False
exec "${RGPT_VENV:-$root/.venv}/bin/python" -m app.main --model "$model" --port "$port" ${sam:+--sam "$sam"}
