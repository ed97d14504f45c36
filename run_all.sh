#!/usr/bin/env bash
# Set-up and the whole job: audit, split, train, blend, report. `./run_all.sh --help` lists the options.
if [ -z "${BASH_VERSION:-}" ]; then exec bash "$0" "$@"; fi  # `sh run_all.sh`: this line is for any shell
set -euo pipefail
script=$(readlink -f "${BASH_SOURCE[0]}" 2> /dev/null || echo "${BASH_SOURCE[0]}")  # a link may stand elsewhere
source "$(dirname "$script")/src/setup.sh"
set_up || exit 2
exec "$PYTHON" "$project/src/run_all.py" "$@"
