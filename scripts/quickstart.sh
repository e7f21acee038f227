#!/usr/bin/env bash
# Makes or reuses .venv and runs the quickstart: real molecules, pretraining, finetuning, runs/quickstart/report.html.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_env.sh"
ensure_environment chem report
exec "$ROOT/examples/quickstart/run.sh" "$@"
