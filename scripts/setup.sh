#!/usr/bin/env bash
# Make .venv with everything, in the versions of scripts/constraints.txt. Safe to run again: it then does nothing.
# PYTHON chooses the interpreter, 3.10 to 3.13 (default: python3).
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
stamp=.venv/.installed
wanted=$(cat setup.py scripts/setup.sh scripts/constraints.txt | cksum)

if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
    echo "setup: .venv is ready ($(.venv/bin/python --version))."
    exit 0
fi
"$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' \
    || { echo "setup: $python is not Python 3.10 to 3.13; set PYTHON to one that is." >&2; exit 1; }
[ -x .venv/bin/python ] || "$python" -m venv .venv \
    || { echo "setup: $python cannot make a virtual environment (on Debian: apt install python3-venv)." >&2; exit 1; }
install() { .venv/bin/python -m pip install --quiet --disable-pip-version-check -c scripts/constraints.txt "$@"; }

echo "setup: installing into .venv, some minutes on a fresh machine ..."
install setuptools wheel cython numpy
install torch torchvision

# BasicSR's setup.py imports torch and reads a version that exec() put among its locals, which Python 3.13 no longer
# allows; building in this environment, with an exec() that writes there, mends both without touching its source.
shim=$(mktemp -d)
trap 'rm -rf "$shim"' EXIT
cat > "$shim/sitecustomize.py" <<'PYTHON'
import builtins
import sys

if sys.version_info >= (3, 13):
    stock_exec = builtins.exec

    def exec_into_caller(source, globals=None, locals=None, /, **options):
        if globals is None:
            frame = sys._getframe(1)
            globals, locals = frame.f_globals, frame.f_locals
        stock_exec(source, globals, locals, **options)

    builtins.exec = exec_into_caller
PYTHON
PYTHONPATH=$shim install --no-build-isolation basicsr

install --no-build-isolation -e '.[test]'
.venv/bin/python -c 'import noiseda_model' \
    || { echo "setup: the packages are there but do not import, see above (libGL missing? apt install libgl1)." >&2; exit 1; }
echo "$wanted" > "$stamp"
echo "setup: made .venv ($(.venv/bin/python --version), torch $(.venv/bin/python -c 'import torch; print(torch.__version__)'), BasicSR 1.4.2)."
