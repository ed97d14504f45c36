#!/usr/bin/env bash
# Set-up and the whole job: audit, split, train, blend, report. `./run_all.sh --help` lists the options.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/src/setup.sh"
set_up || exit 2
exec "$PYTHON" "$project/src/run_all.py" "$@"
