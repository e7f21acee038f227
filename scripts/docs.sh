#!/usr/bin/env bash
# Makes or reuses .venv and builds the documentation's site into runs/site (open runs/site/index.html). A broken link ends it.
#
#   ./scripts/docs.sh            build
#   ./scripts/docs.sh --serve    build, and show it on http://127.0.0.1:8000, anew after each change
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_env.sh"
ensure_environment chem report docs
cd -- "$ROOT"
if [ "${1:-}" = --serve ]; then
    exec env NO_MKDOCS_2_WARNING=1 mkdocs serve
fi
NO_MKDOCS_2_WARNING=1 mkdocs build --strict "$@"
echo "written: runs/site/index.html"
