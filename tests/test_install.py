"""The wheel, installed into a clean environment and used from another folder."""
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

from cli import ROOT, losses

TINY = ROOT / 'tests/noiseda_basicsr/tiny.yml'


def test_the_wheel_trains_by_its_console_script(tmp_path, image_folder):
    pip = [sys.executable, '-m', 'pip', '--quiet', '--disable-pip-version-check']
    build = tmp_path / 'build'
    subprocess.run([*pip, 'wheel', '--no-deps', '--no-build-isolation', '--wheel-dir', build, ROOT], check=True)
    wheel, = build.glob('noiseda-*.whl')

    environment = tmp_path / 'environment'
    venv.create(environment)
    python = environment / 'bin/python'
    site = Path(subprocess.check_output(
        [python, '-c', 'import sysconfig; print(sysconfig.get_path("purelib"))'], text=True).strip())
    # the packages it depends on, but not the editable install beside them
    (site / 'dependencies.pth').write_text(sysconfig.get_path('purelib'))
    subprocess.run([*pip, '--python', python, 'install', '--no-deps', wheel], check=True)

    for seed, name in enumerate(['gt', 'lq', 'real']):
        image_folder(name, 6, seed)
    env = {key: value for key, value in os.environ.items() if key != 'PYTHONPATH'} | {'OMP_NUM_THREADS': '1'}
    where = subprocess.check_output([python, '-c', 'import noiseda_model; print(noiseda_model.__file__)'], cwd=tmp_path,
                                    env=env, text=True)
    assert where.startswith(str(environment))
    process = subprocess.run([environment / 'bin/noiseda-train', '-opt', TINY], cwd=tmp_path, env=env, text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    assert process.returncode == 0, process.stdout
    assert sorted(losses(process.stdout)) == list(range(1, 9))
    assert (tmp_path / 'experiments/tiny/models/net_g_latest.pth').is_file()
    shipped = {path.name for path in (ROOT / 'noiseda_model/weights').iterdir()}
    assert {path.name for path in (site / 'noiseda_model/weights').iterdir()} == shipped
    for command in ('test', 'prepare', 'evaluate', 'measure', 'diagnose'):
        assert (environment / f'bin/noiseda-{command}').is_file()
