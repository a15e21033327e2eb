"""What a user can do wrong with data: each mistake is an InputError that names the file or option and the remedy."""
import errno
import os
from os import path as osp

import cv2
import lmdb
import numpy as np
import pytest

from noiseda_basicsr import InputError
from noiseda_data import PairedUnpairedDataset
from noiseda_data.lmdb_writer import check_lmdb, create_lmdb
from noiseda_data.store import FolderStore, LmdbStore, decode

AWGN = {'type': 'awgn', 'sigma': 25}


def build(**options):
    return PairedUnpairedDataset({'name': 'x', 'phase': 'train', 'gt_size': 8, **options})


def fails(*words, within=build, **options):
    """The message holds every word, in order."""
    with pytest.raises(InputError, match='(?s)' + '.*'.join(words)):
        within(**options)


def remove(folder, name):
    os.remove(osp.join(folder, name))


@pytest.mark.parametrize('option', ['dataroot_gt', 'dataroot_lq', 'dataroot_real', 'dataroot_ref'])
@pytest.mark.parametrize('source', ['nowhere', 'nowhere.lmdb', '{gt};nowhere'])
def test_missing_source(pair_folders, option, source):
    gt, lq = pair_folders()
    options = {'dataroot_gt': gt, 'dataroot_lq': lq, option: source.format(gt=gt)}
    fails(option, 'nowhere(.lmdb)? does not exist', 'Give a folder of images or an .lmdb folder', **options)


def test_empty_folder(tmp_path):
    (tmp_path / 'photos').mkdir()
    (tmp_path / 'photos' / 'scan.exr').write_bytes(b'\x76\x2f\x31\x01')
    folder = str(tmp_path / 'photos')
    fails('photos: no image in this folder', 'looked for .png .jpg', dataroot_gt=folder, degradation=AWGN)


def test_linked_folders_are_read_once(tmp_path, image_folder):
    elsewhere = image_folder('elsewhere', 3)
    (tmp_path / 'photos/a').mkdir(parents=True)
    os.symlink(elsewhere, tmp_path / 'photos/b')
    os.symlink(tmp_path / 'photos', tmp_path / 'photos/a/back')
    assert len(FolderStore(str(tmp_path / 'photos')).keys) == 3


def test_hidden_folders_are_left_out(image_folder):
    folder = image_folder('photos', 3)
    image_folder('photos/.thumbnails', 3)
    assert len(FolderStore(folder).keys) == 3


def test_a_folder_that_may_not_be_read_is_told(image_folder, monkeypatch):
    folder, scandir = image_folder('photos', 3), os.scandir
    for name in ('private', 'lost+found'):
        image_folder(f'photos/{name}', 3)

    def refused(path):
        if osp.basename(path) in locked:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return scandir(path)

    monkeypatch.setattr(os, 'scandir', refused)
    locked = ['private', 'lost+found']
    with pytest.raises(InputError, match=r'photos/private: this folder cannot be read \(Permission denied\)'):
        FolderStore(folder)
    locked = ['lost+found']
    assert len(FolderStore(folder).keys) == 6


def test_a_name_that_is_not_utf_8(image_folder):
    folder = image_folder('photos', 3)
    os.rename(os.fsencode(f'{folder}/001.png'), os.fsencode(folder) + b'/caf\xe9.png')
    fails(r'photos/caf\\udce9.png: the name is not UTF-8; rename it', dataroot_gt=folder, degradation=AWGN)


@pytest.mark.parametrize('template', [{'x': None}, '{}_{}', '{x}', '{'])
def test_templates_that_cannot_be_filled(pair_folders, template):
    gt, lq = pair_folders()
    fails('filename_tmpl is', 'stands for the name of the gt', dataroot_gt=gt, dataroot_lq=lq, filename_tmpl=template)


def test_results_of_one_name(image_folder):
    one, two = image_folder('one', 2), image_folder('two', 3)
    both = build(phase='test', dataroot_lq=f'{one};{two}')
    assert [item['lq_path'] for item in both] == ['0_000.png', '0_001.png', '1_000.png', '1_001.png', '1_002.png']
    pixels = np.zeros((9, 9, 3), np.uint8)
    alike = image_folder('alike', {'a_b.png': pixels, 'a/b.png': pixels, 'c.png': pixels})
    assert [item['lq_path'] for item in build(phase='test', dataroot_lq=alike)] == ['0_a_b.png', '1_a_b.png', '2_c.png']


@pytest.mark.parametrize(('change', 'words'), [
    (lambda text: text + text, ["'000.png .40,48,3. 1' is there twice"]),
    (lambda text: text.replace('.png', ''), ['is not of the form']),
    (lambda text: text.encode('utf-16'), ['is not UTF-8']),
])
def test_damaged_meta_info(image_folder, tmp_path, change, words):
    target = tmp_path / 'x.lmdb'
    create_lmdb(image_folder('x'), str(target))
    changed = change((target / 'meta_info.txt').read_text())
    (target / 'meta_info.txt').write_bytes(changed if isinstance(changed, bytes) else changed.encode())
    fails('x.lmdb/meta_info.txt: ', *words, dataroot_gt=str(target), degradation=AWGN)


def test_meta_info_of_windows_or_without_sizes(image_folder, tmp_path):
    target = tmp_path / 'x.lmdb'
    create_lmdb(image_folder('x'), str(target))
    (target / 'meta_info.txt').write_bytes(b'\xef\xbb\xbf000.png\r\n001.png 1\r\n002.png (40,48,3) 1\r\n')
    assert LmdbStore(str(target)).keys == ['000', '001', '002'] and check_lmdb(str(target)) == 3


def test_more_pixels_than_opencv_takes(monkeypatch):
    def refuse(*_):
        cv2.resize(np.empty((0, 0)), (1, 1))  # one of OpenCV's own errors

    monkeypatch.setattr(cv2, 'imdecode', refuse)
    with pytest.raises(InputError, match=r'huge.png: cannot be decoded as an image \(.+\)'):
        decode(b'image', 'huge.png')


@pytest.mark.parametrize(('lost', 'words'), [
    ('meta_info.txt', ['x.lmdb: meta_info.txt is missing', 'scripts/create_lmdb.py']),
    ('data.mdb', [r'x.lmdb: no LMDB here \(data.mdb is missing\)', 'scripts/create_lmdb.py']),
])
def test_half_an_lmdb(image_folder, tmp_path, lost, words):
    target = str(tmp_path / 'x.lmdb')
    create_lmdb(image_folder('x'), target)
    remove(target, lost)
    fails(*words, dataroot_gt=target, degradation=AWGN)


def test_damaged_lmdb(image_folder, tmp_path):
    target = tmp_path / 'x.lmdb'
    create_lmdb(image_folder('x'), str(target))
    (target / 'data.mdb').write_bytes(b'no database' * 1000)
    fails('x.lmdb: LMDB cannot be opened', 'Make it anew', dataroot_gt=str(target), degradation=AWGN)


def test_lmdb_that_lists_nothing(image_folder, tmp_path):
    target = tmp_path / 'x.lmdb'
    create_lmdb(image_folder('x'), str(target))
    (target / 'meta_info.txt').write_text('\n')
    fails('x.lmdb/meta_info.txt: lists no image', dataroot_gt=str(target), degradation=AWGN)


def test_lmdb_that_lacks_a_listed_image(image_folder, tmp_path):
    target = str(tmp_path / 'x.lmdb')
    create_lmdb(image_folder('x', 1), target)
    with lmdb.open(target, map_size=2**24) as environment, environment.begin(write=True) as transaction:
        transaction.delete(b'000')
    dataset = build(dataroot_gt=target, degradation=AWGN)
    fails('x.lmdb key 000: listed in meta_info.txt but not in the database', '--check', within=lambda: dataset[0])


@pytest.mark.parametrize('stream', ['gt', 'lq', 'real', 'ref'])
@pytest.mark.parametrize('extension', ['.png', '.jpg', '.bmp', '.tif'])
def test_truncated_image(image_folder, tmp_path, stream, extension):
    folders = {f'dataroot_{name}': image_folder(name, 1) for name in ('gt', 'lq', 'real', 'ref')}
    for name in ('gt', 'lq') if stream in ('gt', 'lq') else (stream,):
        folder = tmp_path / name
        whole = cv2.imencode(extension, cv2.imread(str(folder / '000.png')))[1].tobytes()
        remove(folder, '000.png')
        (folder / f'000{extension}').write_bytes(whole[:len(whole) * 2 // 3] if name == stream else whole)
    dataset = build(**folders)
    fails(f'{stream}/000{extension}: cannot be decoded', 'Remove or replace it', within=lambda: dataset[0])


@pytest.mark.parametrize('content', [b'', b'hello', b'\x89PNG\r\n\x1a\n'], ids=['empty', 'text', 'header'])
def test_file_that_is_no_image(tmp_path, content):
    (tmp_path / 'a.png').write_bytes(content)
    dataset = build(dataroot_gt=str(tmp_path), degradation=AWGN)
    fails('a.png: cannot be decoded', 'Remove or replace it', within=lambda: dataset[0])


@pytest.mark.parametrize('dtype', [np.float32, np.int32])
@pytest.mark.parametrize('size', [(9, 9, 3), (9, 9)], ids=['colour', 'grey'])
def test_neither_8_nor_16_bit(image_folder, dtype, size):
    folder = image_folder('x', {'a.tif': np.ones(size, dtype)})
    dataset = build(dataroot_gt=folder, degradation=AWGN)
    fails(f'a.tif: {np.dtype(dtype)} pixels', 'convert it to 8 or 16 bit', within=lambda: dataset[0])


@pytest.mark.parametrize('phase', ['train', 'val'])
def test_pair_of_different_size(image_folder, phase):
    gt = image_folder('gt', {'a.png': np.zeros((9, 12, 3), np.uint8)})
    lq = image_folder('lq', {'a.png': np.zeros((12, 9, 3), np.uint8)})
    dataset = build(dataroot_gt=gt, dataroot_lq=lq, phase=phase)
    fails('lq/a.png is 9x12', 'gt/a.png is 12x9', 'must be of equal size', within=lambda: dataset[0])


@pytest.mark.parametrize(('stream', 'words'), [
    ('lq', ['dataroot_gt has 3 images and dataroot_lq 2; 1 gt and 0 lq', 'no lq for gt 001', 'filename_tmpl']),
    ('gt', ['dataroot_gt has 2 images and dataroot_lq 3; 0 gt and 1 lq', 'no gt for lq 001', 'filename_tmpl']),
])
def test_count_of_pairs(pair_folders, stream, words):
    folders = dict(zip(('gt', 'lq'), pair_folders(), strict=True))
    remove(folders[stream], '001.png')
    fails(*words, dataroot_gt=folders['gt'], dataroot_lq=folders['lq'])


@pytest.mark.parametrize(('template', 'words'), [
    (None, ['1 gt and 1 lq are without partner', 'no lq for gt 001', 'Names must match']),
    ('{}_noisy', ['3 gt and 3 lq are without partner', 'no lq for gt 000']),
])
def test_names_of_pairs(pair_folders, template, words):
    gt, lq = pair_folders()
    os.rename(osp.join(lq, '001.png'), osp.join(lq, '007.png'))
    fails(*words, dataroot_gt=gt, dataroot_lq=lq, filename_tmpl=template)


def test_pairs_from_different_numbers_of_sources(pair_folders):
    gt, lq = pair_folders()
    fails('dataroot_gt has 6 images and dataroot_lq 3; 3 gt and 0 lq', dataroot_gt=f'{gt};{gt}', dataroot_lq=lq)


@pytest.mark.parametrize(('changes', 'words'), [
    ({'dataroot_rael': 'x'}, ['datasets:train', 'dataroot_rael', 'knows dataroot_gt, .*dataroot_real']),
    ({'phase': 'val', 'mean': [0.5], 'gt_sise': 8}, ['datasets:val', 'gt_sise, mean', 'gt_size']),
    ({'degradation': {'type': 'agwn'}}, ["unknown type 'agwn'", 'known: awgn']),
    ({'degradation': {'sigma': 3}}, ['unknown type None', 'known: awgn']),
    ({'degradation': {'type': 'awgn', 'sigmas': 25}}, ['degradation awgn', 'sigmas']),
    ({'degradation': {'type': 'awgn'}}, ['degradation awgn', 'sigma']),
    ({'degradation': {'type': 'awgn', 'sigma': [75, 0]}}, ['degradation', r'\[low, high\]', r'\[75, 0\]']),
    ({'degradation': {'type': 'awgn', 'sigma': -1}}, ['degradation', 'sigma must be', '-1']),
    ({'degradation': None}, ['datasets:train: give dataroot_lq, or degradation']),
    ({'dataroot_lq': '{gt}'}, ['datasets:train: give dataroot_lq or degradation, not both']),
    ({'dataroot_lq': '{gt}', 'degradation': None, 'enlarge': 2}, ['datasets:train: enlarge needs degradation']),
    ({'enlarge': 2, 'phase': 'val'}, ['datasets:val: enlarge is for training']),
    ({'enlarge': [0.5, 2]}, ['datasets:train:enlarge must be', '1 <= low']),
    ({'dataroot_gt': None}, ['datasets:train: dataroot_gt is missing']),
    ({'dataroot_gt': None, 'phase': 'val'}, ['datasets:val: dataroot_gt is missing']),
    ({'gt_size': None}, ['datasets:train: gt_size', 'is missing']),
    ({'use_hflip': 'no'}, ["datasets:train:use_hflip is 'no'; it must be true or false"]),
    ({'dataroot_real': [1]}, [r'dataroot_real is \[1\]; it must be a folder']),
    ({'scale': 4}, ['scale: 4 is super-resolution', 'scale 1']),
    ({'scale': 2, 'phase': 'val'}, ['scale: 2']),
    ({'batch_size_per_gpu': 4}, ['3 samples', 'one batch of 4', 'dataset_enlarge_ratio', 'batch_size_per_gpu']),
    ({'batch_size_per_gpu': 31, 'dataset_enlarge_ratio': 10}, ['30 samples', 'one batch of 31']),
], ids=str)
def test_options(image_folder, changes, words):
    gt = image_folder('gt')
    options = {'dataroot_gt': gt, 'degradation': AWGN, **changes}
    if options.get('dataroot_lq'):
        options['dataroot_lq'] = gt
    fails(*words, **options)


@pytest.mark.parametrize(('changes', 'words'), [
    ({'degradation': {'type': 'awgn', 'sigma': [0, 25, 75]}}, ['degradation', 'sigma', r'\[low, high\]']),
    ({'degradation': 'awgn'}, ['degradation', 'type']),
    ({'dataroot_real': ' ; '}, ['dataroot_real']),
    ({'dataroot_gt': '{gt}/000.png'}, ['dataroot_gt: .*000.png is a file']),
], ids=str)
def test_rarer_slips(image_folder, changes, words):
    gt = image_folder('gt')
    options = {'dataroot_gt': gt, 'degradation': AWGN, **changes}
    options['dataroot_gt'] = options['dataroot_gt'].format(gt=gt)
    fails(*words, **options)


@pytest.mark.parametrize('ratio', [1, 10])
def test_exactly_one_batch_is_enough(image_folder, ratio):
    options = {'dataset_enlarge_ratio': ratio, 'batch_size_per_gpu': 3 * ratio}
    assert len(build(dataroot_gt=image_folder('gt'), degradation=AWGN, **options)) == 3


def test_two_images_with_one_name(image_folder):
    pixels = np.zeros((9, 9, 3), np.uint8)
    folder = image_folder('gt', {'a.png': pixels, 'a.jpg': pixels})
    fails('gt: two images are called a but for their extension', 'keep one', dataroot_gt=folder, degradation=AWGN)


def test_a_broken_training_image_can_be_skipped(image_folder, monkeypatch):
    lines = []
    monkeypatch.setattr('noiseda_data.paired_unpaired_dataset.get_root_logger',
                        lambda: type('Log', (), {'warning': lambda self, text: lines.append(text)})())
    gt, real = image_folder('gt', 4), image_folder('real', 4, seed=1)
    for file in ('gt/001.png', 'real/002.png'):
        with open(osp.join(osp.dirname(gt), file), 'wb') as broken:
            broken.write(b'no image')
    data_set = build(dataroot_gt=gt, dataroot_real=real, degradation=AWGN, on_error='skip')
    for _ in range(5):
        assert all(data_set[index]['real'].shape == (3, 8, 8) for index in range(4))
    assert len(lines) == 2 and {line.split('in this process: ')[1].split(':')[0] for line in lines} == {
        osp.join(gt, '001.png'), osp.join(real, '002.png')}
    assert len(data_set.broken) == 2 and sum(data_set.broken.values()) > 5

    for number in range(4):
        remove(gt, f'{number:03d}.png')
    fails('20 images in a row could not be used', r'gt/\d+\.png', within=lambda: data_set[0])
    fails('on_error', 'stop or skip', dataroot_gt=real, degradation=AWGN, on_error='ignore')
