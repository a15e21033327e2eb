#!/usr/bin/env bash
# Build the documentation into site/ (open site/index.html), or serve it while you write: bash scripts/docs.sh serve
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh
export NO_MKDOCS_2_WARNING=1  # an advertisement, not a warning
case ${1:-build} in
    build) exec .venv/bin/mkdocs build --strict ;;
    serve) exec .venv/bin/mkdocs serve --strict ;;
    *) echo "docs: build or serve, not $1." >&2; exit 1 ;;
esac
