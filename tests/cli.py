"""Running the project's commands as a user does, for the tests."""
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run(arguments, cwd, env=None, timeout=300):
    """Run Python with ``arguments`` in ``cwd`` on one thread; the finished process, output and errors joined."""
    fixed = {'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT), 'CUDA_VISIBLE_DEVICES': ''}
    environment = {**os.environ, **fixed, **(env or {})}
    return subprocess.run([sys.executable, *map(str, arguments)], cwd=cwd, env=environment, timeout=timeout, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)


def losses(output):
    """{iteration: {name: text of the figure}} from a training log."""
    found = {}
    for line in output.splitlines():
        if '[eta:' in line:
            iteration = int(line.split(', iter:')[1].split(',')[0].replace(',', ''))
            figures = line.rsplit('] ', 1)[1].split()
            found[iteration] = dict(zip((name.rstrip(':') for name in figures[::2]), figures[1::2], strict=True))
    return found
