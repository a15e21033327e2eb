#!/usr/bin/env bash
# Run all tests, file by file on all cores; arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh
exec .venv/bin/python -m pytest --numprocesses auto --dist loadfile "$@"
