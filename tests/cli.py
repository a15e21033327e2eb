"""Running the project's commands as a user does, for the tests."""
import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def start(arguments, cwd, env=None):
    """Start Python with ``arguments`` in ``cwd`` on one thread, output and errors joined."""
    python_path = os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')])
    fixed = {'OMP_NUM_THREADS': '1', 'PYTHONPATH': python_path, 'CUDA_VISIBLE_DEVICES': '', 'PYTHONUNBUFFERED': '1'}
    return subprocess.Popen([sys.executable, *map(str, arguments)], cwd=cwd, env={**os.environ, **fixed, **(env or {})},
                            text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)


def run(arguments, cwd, env=None, timeout=300):
    """The finished process of :func:`start`, with its output in ``stdout``."""
    process = start(arguments, cwd, env)
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, output)


def losses(output):
    """{iteration: {name: text of the figure}} from a training log."""
    found = {}
    for line in output.splitlines():
        if '[eta:' in line:
            iteration = int(line.split(', iter:')[1].split(',')[0].replace(',', ''))
            figures = line.rsplit('] ', 1)[1].split()
            found[iteration] = dict(zip((name.rstrip(':') for name in figures[::2]), figures[1::2], strict=True))
            found[iteration].pop('images_per_s', None)
    return found
