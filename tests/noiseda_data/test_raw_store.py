"""The raw store: the pixels of every other store, as a view of the memory map, in any process, or a clear error."""
import ctypes
import os
import pickle
import runpy
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from os import path as osp

import cli
import lmdb
import numpy as np
import pytest
import torch

from noiseda_basicsr import InputError, open_lmdb
from noiseda_basicsr.sampler import ResumableSampler, SampleIndex
from noiseda_data import PairedUnpairedDataset, lmdb_writer
from noiseda_data.lmdb_writer import check_lmdb, create_lmdb, extract_images
from noiseda_data.store import RawStore, open_images, open_one

NOISE = np.random.default_rng(0).integers(0, 2**16, (37, 23, 3), np.uint16)
IMAGES = {
    'b/colour.png': NOISE.astype(np.uint8), 'b/deep.png': NOISE, 'grey.png': NOISE[..., 0].astype(np.uint8),
    'a/deep grey.tif': NOISE[..., 1], 'dot.1.bmp': NOISE[:1, :1].astype(np.uint8), 'large.png':
    np.random.default_rng(1).integers(0, 256, (90, 101, 3), np.uint8),
}


def pixels(source):
    store = open_one(source, 'source')
    return {key: np.array(store.read(key)) for key in store.keys}


def assert_equal_pixels(one, other):
    assert list(one) == list(other)
    for key, image in one.items():
        assert image.dtype == other[key].dtype
        np.testing.assert_array_equal(image, other[key])


def entries(path):
    with open_lmdb(path).begin() as transaction:
        return dict(transaction.cursor())


@pytest.fixture
def raw(image_folder, tmp_path):
    """raw(name, images) writes a raw LMDB and returns its path."""

    def make(name='x', images=3, seed=0):
        create_lmdb(image_folder(name, images, seed), str(tmp_path / f'{name}.lmdb'), raw=True)
        return str(tmp_path / f'{name}.lmdb')

    return make


# ---------------------------------------------------------------------- the format


def test_folder_png_lmdb_raw_lmdb_folder_and_back(image_folder, tmp_path):
    folder = image_folder('x', IMAGES)
    png, raw, again, direct, last = (str(tmp_path / f'{number}.lmdb') for number in range(5))
    assert create_lmdb(folder, png) == create_lmdb(png, raw, raw=True) == 6
    assert extract_images(raw, str(tmp_path / 'out')) == 6
    expected = {key.replace('.', '_').replace(' ', '_'): image for key, image in pixels(folder).items()}
    for source in (png, raw, str(tmp_path / 'out')):
        assert_equal_pixels(pixels(source), expected)
    create_lmdb(raw, again)
    create_lmdb(folder, direct, raw=True)
    create_lmdb(str(tmp_path / 'out'), last, raw=True)
    assert entries(png) == entries(again)
    assert entries(raw) == entries(direct) == entries(last)


def test_format_is_as_documented(raw, tmp_path):
    path = raw(images={'a/b.png': NOISE, 'c.png': NOISE[:4, :5].astype(np.uint8)})
    assert (tmp_path / 'x.lmdb' / 'meta_info.txt').read_text() == 'a/b.raw (37,23,3) uint16\nc.raw (4,5,3) uint8\n'
    assert entries(path) == {b'a/b': NOISE.astype('<u2').tobytes(), b'c': NOISE[:4, :5].astype(np.uint8).tobytes()}


def test_sub_images_and_selection_as_for_png(image_folder, tmp_path):
    folder = image_folder('x', 3)
    for name, is_raw in (('png', False), ('raw', True)):
        create_lmdb(folder, str(tmp_path / f'{name}.lmdb'), 16, 12, {'000', '002'}, raw=is_raw)
    assert_equal_pixels(pixels(str(tmp_path / 'png.lmdb')), pixels(str(tmp_path / 'raw.lmdb')))


def test_reading_gives_a_view_of_the_map(raw):
    store = open_images(raw(images={'a.png': NOISE}), 'x')
    image = store.read(store.keys[0])
    assert not image.flags.writeable
    assert np.shares_memory(image, store.read(store.keys[0]))
    address = image[5:9, 3:7].__array_interface__['data'][0]
    with open('/proc/self/maps') as maps:
        owners = [line.split()[-1] for line in maps
                  if int(line.split('-')[0], 16) <= address < int(line.split('-')[1].split()[0], 16)]
    assert owners == [osp.realpath(osp.join(store.stores[0].path, 'data.mdb'))]


@pytest.mark.parametrize('options', [{}, {'use_rot': False}, {'gt_size': 48}, {'phase': 'val'},
                                     {'degradation': {'type': 'awgn', 'sigma': 20}}], ids=str)
def test_items_are_those_of_a_folder(image_folder, tmp_path, options):
    roots = {}
    for number, stream in enumerate(('gt', 'lq', 'real', 'ref')):
        images = {f'{n}.png': np.random.default_rng(10 * number + n).integers(0, 256, (40, 50, 3), np.uint8)
                  for n in range(3)}
        images['3.png'] = np.roll(NOISE, number)
        roots[f'dataroot_{stream}'] = image_folder(stream, images)
        create_lmdb(roots[f'dataroot_{stream}'], f'{tmp_path}/{stream}.lmdb', raw=True)
    if 'degradation' in options:
        del roots['dataroot_lq']
    torch.manual_seed(0)
    folder, raw = (PairedUnpairedDataset({'name': 'x', 'phase': 'train', 'gt_size': 8, **paths, **options})
                   for paths in (roots, {option: f'{path}.lmdb' for option, path in roots.items()}))
    for place in range(8):
        one, other = (dataset[SampleIndex(place % 4, (0, place))] for dataset in (folder, raw))
        assert set(one) == set(other)
        for key, value in one.items():
            assert torch.equal(value, other[key]) if torch.is_tensor(value) else value == other[key]


# ---------------------------------------------------------------------- processes and threads


@pytest.fixture
def dataset(raw):
    gt, lq = raw('gt', 6, 1), raw('lq', 6, 2)
    return PairedUnpairedDataset({'name': 'x', 'phase': 'train', 'gt_size': 8, 'dataroot_gt': gt, 'dataroot_lq': lq,
                                  'dataroot_real': f'{gt};{lq}'})


@pytest.mark.parametrize(('start', 'workers'), [('fork', 3), ('forkserver', 1), ('spawn', 4)])
def test_workers_give_what_the_main_process_gives(dataset, start, workers):
    """Persistent workers, two epochs, after this process has read too."""
    sampler = ResumableSampler(dataset, 1, 0, ratio=4)
    loader = torch.utils.data.DataLoader(dataset, 2, sampler=sampler, num_workers=workers, persistent_workers=True,
                                         multiprocessing_context=start)
    for epoch in range(2):
        sampler.set_epoch(epoch)
        expected = [dataset[index] for index in sampler]
        read = [{key: batch[key][i] for key in batch} for batch in loader for i in range(2)]
        assert len(read) == len(expected) == 24
        for one, other in zip(read, expected, strict=True):
            assert all(torch.equal(one[key], other[key]) for key in ('gt', 'lq', 'real'))


def test_threads_share_a_store(raw):
    path = raw(images=20)
    store, expected = RawStore(path), pixels(path)
    with ThreadPoolExecutor(8) as pool:
        for key, image in zip(store.keys * 20, pool.map(store.read, store.keys * 20), strict=True):
            np.testing.assert_array_equal(image, expected[key])


def test_a_store_is_sent_to_a_worker_without_its_pixels(raw):
    store = RawStore(raw(images={'a.png': np.zeros((200, 200, 3), np.uint8)}))
    image = store.read('a')
    content = pickle.dumps(store)
    assert len(content) < 1000
    np.testing.assert_array_equal(pickle.loads(content).read('a'), image)


READ_ALL = """
import resource, sys
import numpy as np
from noiseda_data import PairedUnpairedDataset

def status(name):
    with open('/proc/self/status') as file:
        return next(int(line.split()[1]) for line in file if line.startswith(name)) * 1024

limit = status('VmData') + 2**28
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
before = status('RssAnon')
dataset = PairedUnpairedDataset({'name': 'x', 'phase': 'train', 'gt_size': 64, 'dataroot_gt': sys.argv[1],
                                 'degradation': {'type': 'awgn', 'sigma': 0}})
for index in range(0, len(dataset), 5):
    store, key = dataset.stores['gt'], dataset.pairs[index][0]
    image = store.read(key)
    number = int(key[1])
    np.testing.assert_array_equal(image[-1, -1], [number, 1, 2])
    assert not image[:2, :2].any() and dataset[index]['gt'].shape == (3, 64, 64)
try:
    np.array(image)
    raise SystemExit('the limit is none')
except MemoryError:
    print('read', len(dataset), 'grown by', status('RssAnon') - before)
"""


def test_five_gigabytes_in_a_process_that_may_have_a_quarter_of_one(tmp_path):
    """Black images but for their last pixel, as holes in the file."""
    punch = getattr(ctypes.CDLL(None, use_errno=True), 'fallocate', None)
    side, count, path = 10500, 16, tmp_path / 'sparse.lmdb'
    image = np.zeros((side, side, 3), np.uint8)
    with lmdb.open(str(path), map_size=6 * 2**30, writemap=True, sync=False, metasync=False) as environment:
        for number in range(count):
            image[-1, -1] = number, 1, 2
            with environment.begin(write=True) as transaction:
                transaction.put(f'{number:02d}'.encode(), image.data)
            start = environment.info()['last_pgno'] * 4096 - image.nbytes
            with open(path / 'data.mdb', 'r+b') as file:
                hole = ctypes.c_long(max(start + 2**20, 0)), ctypes.c_long(image.nbytes - 2**21)
                if punch is None or punch(file.fileno(), 3, *hole):  # 3: punch a hole, keep the size
                    pytest.skip('this file system has no sparse files')
    (path / 'meta_info.txt').write_text(''.join(f'{n:02d}.raw ({side},{side},3) uint8\n' for n in range(count)))
    assert (path / 'data.mdb').stat().st_size > 5 * 2**30
    assert (path / 'data.mdb').stat().st_blocks * 512 < 2**28
    result = cli.run(['-c', READ_ALL, path], tmp_path)
    assert result.returncode == 0, result.stdout
    assert int(result.stdout.split()[-1]) < 2**26


# ---------------------------------------------------------------------- writers that fail


def test_the_map_grows_while_writing(image_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(lmdb_writer, 'FIRST_MAP_SIZE', 2**15)
    images = {f'{number:02d}.png': np.full((64, 64, 3), number, np.uint8) for number in range(40)}
    for is_raw in (False, True):
        path = str(tmp_path / f'{is_raw}.lmdb')
        create_lmdb(image_folder('x', images), path, raw=is_raw)
        assert [image[-1, -1].tolist() for image in pixels(path).values()] == [[number] * 3 for number in range(40)]


WRITE_SLOWLY = """
import sys, time
from noiseda_data import lmdb_writer

put = lmdb_writer._put

def slow_put(environment, entries):
    put(environment, entries)
    print('written', flush=True)
    time.sleep(0.05)

lmdb_writer._put = slow_put
lmdb_writer.create_lmdb(*sys.argv[1:], raw=True)
"""


def test_a_killed_writer_leaves_no_database_and_an_old_one_alone(image_folder, raw, tmp_path):
    old = raw('old')
    before = entries(old)
    folder, target = image_folder('x', 30), str(tmp_path / 'x.lmdb')
    environment = {**os.environ, 'PYTHONPATH': str(cli.ROOT)}
    with subprocess.Popen([sys.executable, '-c', WRITE_SLOWLY, folder, target], env=environment, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as writer:
        for _ in range(10):
            assert writer.stdout.readline() == 'written\n'
        writer.send_signal(signal.SIGKILL)
    assert not osp.exists(target)
    with pytest.raises(InputError, match='x.partial.lmdb: meta_info.txt is missing, so this is no finished LMDB'):
        open_images(str(tmp_path / 'x.partial.lmdb'), 'dataroot_gt')
    with pytest.raises(InputError, match='old.lmdb: exists already'):
        create_lmdb(folder, old, raw=True)
    assert entries(old) == before
    assert create_lmdb(folder, target, raw=True) == check_lmdb(target) == 30
    assert sorted(os.listdir(tmp_path)) == ['old', 'old.lmdb', 'x', 'x.lmdb']


def test_a_full_disk_is_told(image_folder, tmp_path):
    code = ('import resource, signal, sys; from noiseda_data.lmdb_writer import create_lmdb\n'
            'signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n'
            'resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, 2**16))\n'
            'create_lmdb(*sys.argv[1:], raw=True)')
    result = cli.run(['-c', code, image_folder('x', 30), tmp_path / 'x.lmdb'], tmp_path)
    assert 'x.lmdb: cannot be written' in result.stdout and 'Is the disk full?' in result.stdout
    assert os.listdir(tmp_path) == ['x']


def test_a_failed_extraction_leaves_no_folder(image_folder, tmp_path):
    path = str(tmp_path / 'x.lmdb')
    create_lmdb(image_folder('x', 3), path)
    with lmdb.open(path, map_size=2**24) as environment, environment.begin(write=True) as transaction:
        transaction.delete(b'002')
    with pytest.raises(InputError, match='x.lmdb key 002: listed in meta_info.txt but not in the database'):
        extract_images(path, str(tmp_path / 'out'))
    assert sorted(os.listdir(tmp_path)) == ['x', 'x.lmdb']


# ---------------------------------------------------------------------- broken stores


def test_a_process_keeps_so_many_views(raw, monkeypatch):
    monkeypatch.setattr('noiseda_data.store.VIEWS', 2)
    store = RawStore(raw())
    first = [store.read(key) for key in store.keys]
    assert len(store.views) == 2 < len(store.keys)
    assert [store.read(key) is image for key, image in zip(store.keys, first, strict=True)] == [True, True, False]


@pytest.mark.parametrize(('change', 'message'), [
    (lambda text: text.replace('001.raw (40,48,3) uint8', '001.png (40,48,3) 1'), '001 is not of the form'),
    (lambda text: text.replace('uint8', 'float32'), '000 is not of the form "key.raw .h,w,3. uint8"'),
    (lambda text: text.replace(',3)', ')'), 'is not of the form'),
    (lambda text: '', 'lists no image'),
])
def test_meta_info_is_checked(raw, change, message):
    path = raw()
    with open(osp.join(path, 'meta_info.txt'), 'r+') as file:
        text = change(file.read())
        file.seek(0)
        file.truncate()
        file.write(text)
    with pytest.raises(InputError, match=f'x.lmdb/meta_info.txt: .*{message}'):
        open_images(path, 'dataroot_gt')


@pytest.mark.parametrize(('entry', 'message'), [
    (b'', 'has 0 bytes, not the .40, 48, 3. uint8 pixels'),
    (bytes(40 * 48 * 3 - 1), 'has 5759 bytes'),
    (bytes(40 * 48 * 3 * 2), 'has 11520 bytes'),
    (None, 'listed in meta_info.txt but not in the database'),
])
def test_entries_are_checked(raw, entry, message):
    path = raw()
    with lmdb.open(path, map_size=2**24) as environment, environment.begin(write=True) as transaction:
        transaction.delete(b'001') if entry is None else transaction.put(b'001', entry)
    for read in (lambda: RawStore(path).read('001'), lambda: check_lmdb(path)):
        with pytest.raises(InputError, match=f'x.lmdb key 001: {message}'):
            read()


@pytest.mark.parametrize('kept', [0.3, 0.9])
def test_a_database_copied_in_part_is_refused(raw, kept):
    """Reading the lost part would end the process by SIGBUS."""
    path = raw(images=20)
    data = osp.join(path, 'data.mdb')
    os.truncate(data, int(kept * osp.getsize(data)))
    with pytest.raises(InputError, match=r'x.lmdb: data.mdb has \d+ of \d+ bytes; copy it again'):
        open_images(path, 'dataroot_gt')


def test_names_too_long_for_a_key(image_folder, tmp_path):
    name = '/'.join(['d' * 100] * 5) + '/abcdef.png'
    with pytest.raises(InputError, match='abcdef.png: rename it; with its folder, LMDB allows 511 letters'):
        create_lmdb(image_folder('x', {name: NOISE}), str(tmp_path / 'x.lmdb'), raw=True)


def test_extraction_stays_in_its_folder(tmp_path):
    path = str(tmp_path / 'x.lmdb')
    with lmdb.open(path, map_size=2**20) as environment, environment.begin(write=True) as transaction:
        transaction.put(b'/evil', bytes(3))
    (tmp_path / 'x.lmdb' / 'meta_info.txt').write_text('/evil.raw (1,1,3) uint8\n')
    with pytest.raises(InputError, match='key /evil: would be written outside .*out'):
        extract_images(path, str(tmp_path / 'out'))
    assert os.listdir(tmp_path) == ['x.lmdb']


def test_extraction_does_not_overwrite(raw, tmp_path):
    (tmp_path / 'out').mkdir()
    with pytest.raises(InputError, match='out: exists already'):
        extract_images(raw(), str(tmp_path / 'out'))


def test_command_line(image_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder, script = image_folder('x', 2), cli.ROOT / 'scripts' / 'create_lmdb.py'

    def run(*arguments):
        monkeypatch.setattr(sys, 'argv', ['create_lmdb.py', *arguments])
        runpy.run_path(str(script), run_name='__main__')
        return capsys.readouterr().out

    assert run(folder, 'a.lmdb', '--raw') == f'a.lmdb: 2 images from {folder}.\n'
    assert run('--check', 'a.lmdb') == 'a.lmdb: 2 images, all readable.\n'
    assert run('a.lmdb', 'out', '--extract') == 'out: 2 images from a.lmdb.\n'
    with pytest.raises(SystemExit, match='error: out: exists already'):
        run('a.lmdb', 'out', '--extract')
    assert_equal_pixels(pixels(folder), pixels('out'))
