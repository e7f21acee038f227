#!/usr/bin/env bash
# Makes or reuses .venv and runs the tests. Arguments go to pytest: ./scripts/test.sh tests/data -k store
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_env.sh"
ensure_environment chem report qm9 dev
exec python -m pytest "$@" </dev/null
