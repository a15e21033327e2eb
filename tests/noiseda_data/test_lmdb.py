"""LMDBs: BasicSR reads what create_lmdb writes; broken ones are found; one may be opened any number of times."""
import os
import runpy
import subprocess
import sys
from os import path as osp
from pathlib import Path

import cv2
import lmdb
import numpy as np
import pytest
import torch
from basicsr.data import build_dataset

from noiseda_basicsr import InputError, open_lmdb
from noiseda_data import lmdb_writer
from noiseda_data.lmdb_writer import check_lmdb, create_lmdb
from noiseda_data.store import LmdbStore

SCRIPT = Path(__file__).parents[2] / 'scripts' / 'create_lmdb.py'


def read_image(*parts):
    return cv2.imread(osp.join(*parts), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)[..., ::-1]


def damage(target, key, change):
    """Replace an entry by ``change(entry)``; None removes it. Call it before this process opens the database."""
    with lmdb.open(target, map_size=2**24) as environment, environment.begin(write=True) as transaction:
        content = change(transaction.get(key.encode()))
        transaction.delete(key.encode()) if content is None else transaction.put(key.encode(), content)


@pytest.mark.parametrize(('size', 'crop', 'step'), [
    ((40, 48), 16, 12), ((40, 48), 16, None), ((41, 50), 17, 5), ((40, 10), 16, 12), ((16, 17), 16, 1)])
def test_sub_images_cover_every_pixel(image_folder, tmp_path, size, crop, step):
    rows, columns = np.indices(size)
    image = np.stack([rows, columns, rows ^ columns], axis=-1).astype(np.uint8)
    target = str(tmp_path / 'x.lmdb')
    count = create_lmdb(image_folder('x', {'a.png': image}), target, crop, step)
    store = LmdbStore(target)
    assert store.keys == [f'a_s{number:03d}' for number in range(1, count + 1)]
    covered, corners = np.zeros(size, bool), []
    for key in store.keys:
        patch = store.read(key)
        assert patch.shape == (min(crop, size[0]), min(crop, size[1]), 3)
        top, left = (int(place) for place in patch[0, 0, :2])
        np.testing.assert_array_equal(patch, image[top:top + crop, left:left + crop])
        covered[top:top + crop, left:left + crop] = True
        corners.append((top, left))
    assert covered.all()
    assert len(set(corners)) == count
    for places in zip(*corners, strict=True):
        gaps = np.diff(sorted(set(places)))
        assert (gaps[:-1] == (step or crop)).all() and (gaps <= (step or crop)).all()


@pytest.mark.parametrize('size', [(16, 16), (9, 16)])
def test_images_not_larger_than_the_crop_stay_whole(image_folder, tmp_path, size):
    target = str(tmp_path / 'x.lmdb')
    assert create_lmdb(image_folder('x', {'a.png': np.zeros((*size, 3), np.uint8)}), target, crop=16) == 1
    assert LmdbStore(target).keys == ['a']


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
def test_pixels_and_depth_are_kept(image_folder, tmp_path, dtype):
    image = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (9, 7, 3), dtype)
    target = str(tmp_path / 'x.lmdb')
    create_lmdb(image_folder('x', {'a.png': image}), target)
    stored = LmdbStore(target).read('a')
    assert stored.dtype == dtype
    np.testing.assert_array_equal(stored, image)


def test_basicsr_reads_our_database(pair_folders):
    gt, lq = pair_folders(2)
    for folder in (gt, lq):
        create_lmdb(folder, f'{folder}.lmdb', crop=32, step=8)
    dataset = build_dataset({
        'name': 'x', 'type': 'PairedImageDataset', 'phase': 'val', 'scale': 1, 'io_backend': {'type': 'lmdb'},
        'dataroot_gt': f'{gt}.lmdb', 'dataroot_lq': f'{lq}.lmdb'})
    assert len(dataset) == 2 * 2 * 3
    item = dataset[3]  # the second row of sub-images of 000 starts
    assert item['lq_path'] == '000_s004'
    for key, folder in {'gt': gt, 'lq': lq}.items():
        expected = read_image(folder, '000.png')[8:, :32]
        np.testing.assert_array_equal((item[key].permute(1, 2, 0) * 255).round(), expected)


def test_meta_info_is_in_basicsrs_format(image_folder, tmp_path):
    target = str(tmp_path / 'x.lmdb')
    create_lmdb(image_folder('x', {'a/b.png': np.zeros((4, 6), np.uint8)}), target, compress_level=7)
    assert (tmp_path / 'x.lmdb' / 'meta_info.txt').read_text() == 'a/b.png (4,6,3) 7\n'


def test_dots_and_spaces_become_underscores(image_folder, tmp_path):
    image = np.full((4, 4, 3), 9, np.uint8)
    target = str(tmp_path / 'x.lmdb')
    create_lmdb(image_folder('x', {'my photo v1.2.png': image, 'sub.dir/b.png': image}), target)
    store = LmdbStore(target)
    assert store.keys == ['my_photo_v1_2', 'sub_dir/b']
    assert all(np.array_equal(store.read(key), image) for key in store.keys)


@pytest.mark.parametrize(('names', 'crop', 'named'), [
    (['a.b.png', 'a_b.png'], None, 'a_b'),
    (['a b.png', 'a.b.png'], None, 'a_b'),
    (['a.png', 'a.jpg'], None, 'a but for their extension'),
    (['a.png', 'a_s001.png'], 4, 'a_s001'),
])
def test_colliding_keys_are_refused(image_folder, tmp_path, names, crop, named):
    sizes = dict.fromkeys(names, (8, 8)) | {'a_s001.png': (4, 4)}
    folder = image_folder('x', {name: np.zeros((*sizes[name], 3), np.uint8) for name in names})
    with pytest.raises(InputError, match=named):
        create_lmdb(folder, str(tmp_path / 'x.lmdb'), crop)
    assert not (tmp_path / 'x.lmdb').exists()


@pytest.mark.parametrize(('name', 'options', 'message'), [
    ('taken.lmdb', {}, 'taken.lmdb: exists already. Remove it'),
    ('x.mdb', {}, 'x.mdb: the name of an LMDB must end with .lmdb'),
    ('x.lmdb', {'step': 4}, 'step 4: must be between 1 and the crop'),
    ('x.lmdb', {'crop': 8, 'step': 9}, 'step 9: must be between 1 and the crop'),
    ('x.lmdb', {'keys': {'000.png'}}, '000.png'),
])
def test_wrong_arguments_are_refused(image_folder, tmp_path, name, options, message):
    folder = image_folder('x', 1)
    (tmp_path / 'taken.lmdb').mkdir()
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(InputError, match=message):
        create_lmdb(folder, str(tmp_path / name), **options)
    assert sorted(os.listdir(tmp_path)) == before


def test_unreadable_names_are_refused(image_folder, tmp_path):
    with pytest.raises(InputError, match='é.png: rename it'):
        create_lmdb(image_folder('x', {'é.png': np.zeros((4, 4, 3), np.uint8)}), str(tmp_path / 'x.lmdb'))


@pytest.mark.parametrize('error', [InputError, OSError, KeyboardInterrupt])
def test_a_failure_leaves_no_database(image_folder, tmp_path, monkeypatch, error):
    folder, target = image_folder('x', 5), str(tmp_path / 'x.lmdb')
    put, written = lmdb_writer._put, []

    def failing_put(environment, entries):
        if len(written) == 3:
            raise error('disk full')
        written.append(entries)
        put(environment, entries)

    monkeypatch.setattr(lmdb_writer, '_put', failing_put)
    with pytest.raises(InputError if error is OSError else error):
        create_lmdb(folder, target)
    assert os.listdir(tmp_path) == ['x']
    monkeypatch.undo()
    assert create_lmdb(folder, target) == check_lmdb(target) == 5


def test_two_writers_of_one_database(image_folder, tmp_path):
    folder, target, partial = image_folder('x', 2), str(tmp_path / 'x.lmdb'), tmp_path / 'x.partial.lmdb'
    partial.mkdir()
    code = ('import sys; from noiseda_basicsr.folders import hold\n'
            'lock = hold(sys.argv[1]); print(1, flush=True); input()')
    other = subprocess.Popen([sys.executable, '-c', code, partial], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    other.stdout.readline()
    with pytest.raises(InputError, match='x.partial.lmdb: another process is at work there'):
        create_lmdb(folder, target)
    assert partial.is_dir()
    other.communicate(b'')
    create_lmdb(folder, target)
    assert sorted(os.listdir(target)) == ['data.mdb', 'lock.mdb', 'meta_info.txt'] and not partial.exists()


def test_what_a_killed_run_left_is_replaced(image_folder, tmp_path):
    folder = image_folder('x', 2)
    create_lmdb(folder, str(tmp_path / 'x.partial.lmdb'))
    (tmp_path / 'x.partial.lmdb/.lock').touch()
    create_lmdb(folder, str(tmp_path / 'x.lmdb'))
    assert sorted(os.listdir(tmp_path)) == ['x', 'x.lmdb']


def test_a_folder_of_the_name_that_is_needed_for_a_time_stays(image_folder, tmp_path):
    mine = image_folder('x.partial.lmdb', 2)
    with pytest.raises(InputError, match='x.partial.lmdb: is needed for a time'):
        create_lmdb(image_folder('x', 2), str(tmp_path / 'x.lmdb'))
    assert len(os.listdir(mine)) == 2


OTHER_SIZE = cv2.imencode('.png', np.zeros((5, 5, 3), np.uint8))[1].tobytes()


@pytest.mark.parametrize(('change', 'message'), [
    (lambda entry: entry[:len(entry) // 2], 'cannot be decoded'),
    (lambda entry: entry[:100] + bytes(50) + entry[150:], 'cannot be decoded'),
    (lambda entry: b'', 'cannot be decoded'),
    (lambda entry: None, 'not in the database'),
    (lambda entry: OTHER_SIZE, r'is 5x5\b.* meta_info.txt says 40x48'),
], ids=['truncated', 'overwritten', 'empty', 'missing', 'size'])
def test_check_finds_the_broken_entry(image_folder, tmp_path, change, message):
    target = str(tmp_path / 'x.lmdb')
    create_lmdb(image_folder('x', 3), target)
    damage(target, '001', change)
    with pytest.raises(InputError, match=f'x.lmdb key 001: .*{message}'):
        check_lmdb(target)


def test_check_finds_an_incomplete_list(image_folder, tmp_path):
    target = tmp_path / 'x.lmdb'
    create_lmdb(image_folder('x', 3), str(target))
    (target / 'meta_info.txt').write_text('000.png (40,48,3) 1\n')
    with pytest.raises(InputError, match='x.lmdb: holds 3 images, of which meta_info.txt lists 1'):
        check_lmdb(str(target))


def test_one_environment_for_every_spelling_of_a_path(image_folder, tmp_path, monkeypatch):
    create_lmdb(image_folder('x', 1), str(tmp_path / 'x.lmdb'))
    (tmp_path / 'link.lmdb').symlink_to(tmp_path / 'x.lmdb')
    monkeypatch.chdir(tmp_path)
    assert open_lmdb('x.lmdb') is open_lmdb(str(tmp_path / 'link.lmdb') + '/') is open_lmdb('./x.lmdb')


@pytest.mark.parametrize(('start', 'workers'), [('fork', 2), ('spawn', 1)])
def test_two_data_sets_share_a_database_also_in_workers(pair_folders, start, workers):
    gt, lq = pair_folders(3)
    create_lmdb(gt, f'{gt}.lmdb')
    create_lmdb(lq, f'{lq}.lmdb')
    pair = {'name': 'x', 'type': 'PairedUnpairedDataset', 'phase': 'val', 'dataroot_gt': f'{gt}.lmdb'}
    paired = build_dataset({**pair, 'dataroot_lq': f'{lq}.lmdb'})
    same = build_dataset({**pair, 'dataroot_lq': f'{gt}.lmdb'})
    both = torch.utils.data.ConcatDataset([paired, same])
    batches = list(torch.utils.data.DataLoader(both, 2, num_workers=workers, multiprocessing_context=start))
    read = {key: torch.cat([batch[key] for batch in batches]) for key in ('gt', 'lq')}
    for number in range(6):
        assert torch.equal(read['gt'][number], paired[number % 3]['gt'])
        assert torch.equal(read['lq'][number], both[number]['lq'])
    assert torch.equal(read['gt'][3:], read['lq'][3:])


def command_line(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, 'argv', ['create_lmdb.py', *map(str, arguments)])
    runpy.run_path(str(SCRIPT), run_name='__main__')
    return capsys.readouterr().out


def test_command_line_writes_and_checks(image_folder, tmp_path, monkeypatch, capsys):
    folder, target, only = image_folder('x', 3), tmp_path / 'x.lmdb', tmp_path / 'only.txt'
    only.write_text('000\n002\n\n')
    out = command_line(monkeypatch, capsys, folder, target, '--crop', 40, '--step', 8, '--only', only, '--workers', 1)
    assert out == f'{target}: 4 images from {folder}.\n'
    assert LmdbStore(str(target)).keys == ['000_s001', '000_s002', '002_s001', '002_s002']
    assert command_line(monkeypatch, capsys, '--check', target) == f'{target}: 4 images, all readable.\n'


@pytest.mark.parametrize(('arguments', 'message'), [
    (['nowhere', 'x.lmdb'], 'error: source: nowhere does not exist'),
    (['photos', 'x.lmdb', '--crop', 0], 'error: crop 0: must be at least 1'),
    (['photos', 'x.lmdb', '--workers', -1], 'error: --workers -1: must be at least 1'),
    (['photos', 'x.lmdb', '--only', 'nofile.txt'], 'error: --only nofile.txt: cannot be read'),
    (['photos', 'x.lmdb', '--only', 'empty.txt'], 'error: x.lmdb: no image is selected'),
    (['photos', 'empty.txt/x.lmdb'], 'error: empty.txt/x.lmdb: cannot be written .*Not a directory'),
    (['--check', 'photos'], 'error: photos: is a folder of images, no LMDB'),
    (['--check', 'nowhere.lmdb'], 'error: --check: nowhere.lmdb does not exist'),
])
def test_command_line_tells_errors_in_one_line(image_folder, monkeypatch, capsys, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    image_folder('photos')
    (tmp_path / 'empty.txt').touch()
    with pytest.raises(SystemExit, match=message):
        command_line(monkeypatch, capsys, *arguments)
    assert sorted(os.listdir(tmp_path)) == ['empty.txt', 'photos']


def test_command_line_asks_for_both_arguments(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        command_line(monkeypatch, capsys, 'photos')
    assert 'give a folder and an LMDB to write' in capsys.readouterr().err
