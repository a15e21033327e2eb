"""noiseda-restore: what BasicSR's test restores, on the files people have."""
import os
import shutil
from types import SimpleNamespace

import cv2
import numpy as np
import psutil
import pytest
import safetensors.torch
import torch
import yaml
from basicsr.archs import build_network
from basicsr.models.sr_model import SRModel
from basicsr.utils import tensor2img
from basicsr.utils.registry import ARCH_REGISTRY
from images import write_images
from small import batch, build, small_opt, step
from tiny_networks import TINY

from noiseda_basicsr import InputError
from noiseda_data.photo import Photo
from noiseda_model import restorer as module
from noiseda_model.inference import self_ensemble
from noiseda_model.restore_command import main, plan
from noiseda_model.restorer import Restorer, load_trained

UNET = {'type': 'RestorationUNet', 'width': 4, 'depth': 2}


@pytest.fixture
def weights(tmp_path):
    """A net_g file as a joint training saves it, averaged weights unlike the others."""
    model = build(small_opt(tmp_path, train__ema_decay=0.5))
    step(model, 1, batch())
    model.save(0, 1)
    return str(tmp_path / 'models/net_g_1.pth')


@pytest.fixture
def photos(tmp_path):
    """photos/a.png, photos/below/b.jpg, photos/below/deep/c.tif, of different sizes, and a text file."""
    rng = np.random.default_rng(0)
    smooth = [cv2.resize(rng.integers(0, 256, (6, 5, 3), np.uint8), size) for size in [(48, 40), (31, 57), (20, 9)]]
    write_images(tmp_path / 'photos', dict(zip(['a.png', 'below/b.jpg', 'below/deep/c.tif'], smooth, strict=True)))
    (tmp_path / 'photos/notes.txt').write_text('not a photo')
    return tmp_path / 'photos'


def command(*arguments):
    """Exit code of noiseda-restore."""
    with pytest.raises(SystemExit) as info:
        main([str(argument) for argument in arguments])
    return info.value.code


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob('*') if path.is_file())


# ---------------------------------------------------------------------- the same result


@pytest.mark.parametrize('key', ['params_ema', 'params'])
def test_restores_as_the_test_of_basicsr_does(weights, photos, tmp_path, key):
    path = {'pretrain_network_g': weights, 'param_key_g': key, 'strict_load_g': True}
    opt = {'num_gpu': 0, 'dist': False, 'is_train': False, 'scale': 1, 'network_g': UNET, 'path': path}
    model = SRModel(opt)
    image = cv2.imread(str(photos / 'a.png'))
    model.feed_data({'lq': torch.from_numpy(np.float32(image[..., ::-1] / 255).transpose(2, 0, 1))[None]})
    model.test()
    expected = tensor2img([model.get_current_visuals()['result']])

    assert command(photos / 'a.png', '-o', tmp_path / 'out', '--weights', weights, '--key', key) == 0
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / 'out/a.png')), expected)
    assert (np.abs(expected.astype(int) - image) > 1).mean() > 0.5  # the network does something


def test_averaged_weights_are_the_default(weights):
    saved = torch.load(weights)
    assert any(not torch.equal(saved['params'][name], value) for name, value in saved['params_ema'].items())
    for name, value in load_trained(weights).state_dict().items():
        assert torch.equal(value, saved['params_ema'][name])


def test_a_file_becomes_what_its_pixels_become(weights, photos, tmp_path):
    restorer = Restorer(weights)
    restorer.file(str(photos / 'a.png'), str(tmp_path / 'a.png'))
    pixels = cv2.imread(str(photos / 'a.png'))[..., ::-1]
    np.testing.assert_array_equal(Photo(str(tmp_path / 'a.png')).read(), restorer(pixels))


def test_sixteen_bit_are_restored_at_their_own_depth(weights):
    restorer, image = Restorer(weights), np.random.default_rng(0).integers(0, 65536, (20, 24, 3), np.uint16)
    with torch.no_grad():
        output = restorer.net(torch.from_numpy(np.float32(image / 65535).transpose(2, 0, 1))[None])[0]
    expected = output.clamp(0, 1).numpy().transpose(1, 2, 0) * 65535
    assert restorer(image).dtype == np.uint16
    assert np.abs(restorer(image) - expected).max() <= 0.51


@pytest.mark.parametrize('precision, tolerance', [('bf16', 2**-7), ('fp16', 2**-10)])
def test_lower_precision_rounds_and_no_more(weights, precision, tolerance):
    image = np.random.default_rng(0).integers(0, 65536, (40, 48, 3), np.uint16)
    exact, rounded = (Restorer(weights, precision=name)(image) / 65535 for name in ('fp32', precision))
    difference = np.abs(exact - rounded).max()
    assert 0 < difference < 4 * tolerance


def test_self_ensemble_is_that_of_the_network_and_clipped_last(weights):
    image = np.random.default_rng(0).integers(0, 65536, (20, 24, 3), np.uint16)
    restorer = Restorer(weights, ensemble=True)
    with torch.no_grad():
        mean = self_ensemble(restorer.net, torch.from_numpy(np.float32(image / 65535).transpose(2, 0, 1))[None])[0]
    assert np.abs(restorer(image) - mean.clamp(0, 1).numpy().transpose(1, 2, 0) * 65535).max() <= 0.51
    assert (restorer(image) != Restorer(weights)(image)).mean() > 0.5


# ---------------------------------------------------------------------- which network it is


def test_spandrel_recognises_what_does_not_say(tmp_path):
    net = build_network({'type': 'NAFNet', **TINY['NAFNet']}).eval()
    safetensors.torch.save_file(net.state_dict(), str(tmp_path / 'net.safetensors'))
    image = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(load_trained(str(tmp_path / 'net.safetensors'))(image), net(image))


@pytest.mark.parametrize('name', TINY)
def test_each_network_is_found_by_the_name_it_is_trained_under(tmp_path, name):
    network = {'type': name, **TINY[name]}
    net = build_network(network).eval()
    torch.save({'params': net.state_dict(), 'network_g': network}, tmp_path / 'net.pth')
    loaded = load_trained(str(tmp_path / 'net.pth'))
    assert type(loaded).__name__ == type(net).__name__
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in net.state_dict().items())


def test_an_option_file_comes_before_the_note_in_the_weights(weights, tmp_path):
    (tmp_path / 'wider.yml').write_text(yaml.dump({'network_g': {**UNET, 'width': 8}}))
    with pytest.raises(InputError, match='net_g_1.pth: does not fit network_g of .*wider.yml.*size mismatch'):
        load_trained(weights, str(tmp_path / 'wider.yml'))


@pytest.mark.parametrize('content, words', [
    (None, 'no such option file'), ('a: [', 'not valid YAML'), ('name: a', 'has no network_g')])
def test_an_option_file_that_does_not_work_is_named(weights, tmp_path, content, words):
    if content:
        (tmp_path / 'net.yml').write_text(content)
    with pytest.raises(InputError, match=f'net.yml: .*{words}'):
        Restorer(weights, str(tmp_path / 'net.yml'))


def test_options_of_validation_are_followed(weights, tmp_path):
    val = {'tile': 16, 'tile_overlap': 4}
    (tmp_path / 'net.yml').write_text(yaml.dump({'network_g': UNET, 'val': val}))
    restorer = Restorer(weights, str(tmp_path / 'net.yml'))
    assert (restorer.tile, restorer.overlap) == (16, 4)
    assert Restorer(weights).tile is None
    assert Restorer(weights, str(tmp_path / 'net.yml'), tile=32, tile_overlap=8).tile == 32
    assert [Restorer(weights, tile=side).overlap for side in (32, 512)] == [8, 32]


@pytest.mark.parametrize('content, words', [
    ({'params': {}, 'network_g': {'type': 'Mine'}}, 'is of the network Mine, which is not registered.*-opt'),
    ({'params': {'a': torch.zeros(1)}, 'network_g': UNET}, 'does not fit network_g of the file itself'),
    ({'params_ema': {'a': torch.zeros(1)}}, 'spandrel'),
])
def test_weights_that_do_not_work_are_named(tmp_path, content, words):
    torch.save(content, tmp_path / 'net.pth')
    with pytest.raises(InputError, match=f'net.pth.*{words}'):
        Restorer(str(tmp_path / 'net.pth'))


def test_a_missing_entry_is_named(tmp_path):
    torch.save({'params': build_network(UNET).state_dict(), 'network_g': UNET}, tmp_path / 'net.pth')
    load_trained(str(tmp_path / 'net.pth'), key='params')
    with pytest.raises(InputError, match="no entry 'params_ema'; it has"):
        load_trained(str(tmp_path / 'net.pth'), key='params_ema')


# ---------------------------------------------------------------------- tiles


@pytest.mark.parametrize('arguments, words', [
    ({'tile': 31}, '--tile is 31; for RestorationUNet it must be a multiple of 2 and at least 2'),
    ({'tile': 0}, '--tile is 0; for RestorationUNet .* at least 2'),
    ({'tile': 16, 'tile_overlap': 16}, '--overlap is 16; it must be at least 0 and below the tile, 16'),
    ({'tile': 16, 'tile_overlap': -1}, '--overlap is -1; it must be at least 0'),
])
def test_tiles_that_do_not_suit_are_refused(weights, arguments, words):
    with pytest.raises(InputError, match=words):
        Restorer(weights, **arguments)


def test_automatic_tiles_follow_the_free_memory(weights, monkeypatch):
    def tile(free):
        monkeypatch.setattr(Restorer, '_free', lambda self: free)
        return Restorer(weights, tile='auto')

    assert tile(2**40).tile == 2048
    assert tile(1).tile == 64 and tile(1).overlap == 16
    assert 64 < tile(20 * 2**20).tile < 2048


@pytest.mark.parametrize('limit, free', [('3000', 1200), ('max', 10**6), (None, 10**6), ('10000000', 10**6)])
def test_free_memory_is_that_of_the_container(limit, free, tmp_path, monkeypatch):
    """Of 3000 bytes 2000 are used, 200 of them by files that need not stay."""
    monkeypatch.setattr(module, 'CGROUP', tmp_path)
    monkeypatch.setattr(psutil, 'virtual_memory', lambda: SimpleNamespace(available=10**6))
    if limit:
        (tmp_path / 'memory.max').write_text(f'{limit}\n')
        (tmp_path / 'memory.current').write_text('2000\n')
        (tmp_path / 'memory.stat').write_text('anon 1800\ninactive_file 200\nactive_file 0\n')
    assert module._free_memory() == free


def test_what_torch_keeps_of_a_gpu_is_free(weights, monkeypatch):
    """The demo builds one restorer after another in a process."""
    one = Restorer(weights, tile=64)
    one.device = torch.device('cuda')
    for name, value in {'mem_get_info': (100, 1000), 'memory_reserved': 50, 'memory_allocated': 20}.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    assert one._free() == 130


def test_full_memory_is_told_with_what_helps(weights, photos, tmp_path, monkeypatch):
    def full(*args, **options):
        raise torch.OutOfMemoryError('CUDA out of memory.')

    monkeypatch.setattr(Restorer, '_network', full)
    with pytest.raises(InputError, match='a.png: the memory is full; give a smaller --tile .*--batch 1.*--device'):
        Restorer(weights, tile=32, tile_overlap=8).file(str(photos / 'a.png'), str(tmp_path / 'out/a.png'))
    assert files(tmp_path / 'out') == []


# ---------------------------------------------------------------------- which file becomes which


def test_plan_keeps_the_structure_below_each_input(photos, tmp_path):
    out = str(tmp_path / 'out')
    below, deep = 'below/b.jpg', 'below/deep/c.tif'

    def planned(*inputs, **more):
        return {target.removeprefix(out + '/'): source.removeprefix(f'{photos}/')
                for target, source in plan([str(name) for name in inputs], out, **more).items()}

    assert planned(photos) == {name: name for name in ('a.png', below, deep)}
    assert planned(photos / 'below') == {'b.jpg': below, 'deep/c.tif': deep}
    assert planned(photos / below, photos / 'a.png') == {'b.jpg': below, 'a.png': 'a.png'}
    assert planned(photos / '**' / '*.[jt]*') == {below: below, deep: deep}
    assert planned(photos / '*' / 'b.*') == {below: below}
    assert planned(photos, ending='.webp') == {'a.webp': 'a.png', 'below/b.webp': below, 'below/deep/c.webp': deep}
    assert planned(photos, photos) == planned(photos)


def test_plan_for_one_photo_may_name_the_file(photos, tmp_path):
    target = str(tmp_path / 'result.webp')
    assert plan([str(photos / 'a.png')], target) == {target: str(photos / 'a.png')}
    assert {os.path.dirname(path) for path in plan([str(photos)], target)} == {
        target, f'{target}/below', f'{target}/below/deep'}


def test_plan_takes_the_name_of_a_photo_it_cannot_write_for_a_mistake(photos):
    with pytest.raises(InputError, match='-o better.HEIC: cannot be written; the ending must be one of .*.webp'):
        plan([str(photos / 'a.png')], 'better.HEIC')


def test_plan_leaves_earlier_results_out(photos):
    shutil.copytree(photos / 'below', photos / 'restored')
    assert set(plan([str(photos)], str(photos / 'restored')).values()) == {
        str(photos / name) for name in ('a.png', 'below/b.jpg', 'below/deep/c.tif')}


def test_plan_refuses_what_would_lose_a_photo(photos, tmp_path):
    with pytest.raises(InputError, match='a.png: is read and would be overwritten; choose another place'):
        plan([str(photos / '*.png')], str(photos))
    shutil.copy(photos / 'a.png', photos / 'below/a.png')
    with pytest.raises(InputError, match='would both become .*out/a.png'):
        plan([str(photos / 'a.png'), str(photos / 'below/a.png')], str(tmp_path / 'out'))
    with pytest.raises(InputError, match=r'-o out.png: its ending is not that of --format'):
        plan([str(photos / 'a.png')], 'out.png', '.jpg')
    assert plan([str(photos / 'a.png')], 'out.jpg', '.jpg') == {'out.jpg': str(photos / 'a.png')}
    with pytest.raises(InputError, match=r'\*.gif: no photo there'):
        plan([str(photos / '*.gif')], str(tmp_path / 'out'))
    with pytest.raises(InputError, match='phtos: does not exist'):
        plan([str(tmp_path / 'phtos')], str(tmp_path / 'out'))
    (tmp_path / 'my.lmdb').mkdir()
    with pytest.raises(InputError, match='my.lmdb/: is an LMDB; make a folder of it, .*--extract'):
        plan([f'{tmp_path}/my.lmdb/'], str(tmp_path / 'out'))


def test_links_that_lead_back_are_not_followed_again(photos, tmp_path):
    (photos / 'here').symlink_to(photos)
    (photos / 'below/up').symlink_to(photos)
    assert sorted(plan([str(photos)], 'out')) == ['out/a.png', 'out/below/b.jpg', 'out/below/deep/c.tif']


def test_hidden_folders_hold_no_photos_to_restore(photos):
    shutil.copytree(photos / 'below', photos / '.thumbnails')
    assert len(plan([str(photos)], 'out')) == 3


def test_results_go_to_another_folder_than_a_folder_of_photos_comes_from(photos):
    """With --format png they would lie beside the photos, and be photos to restore the next time."""
    with pytest.raises(InputError, match='-o .*photos/: holds the photos to restore; choose another folder'):
        plan([str(photos)], f'{photos}/', '.png')
    assert plan([str(photos / 'below/b.jpg')], str(photos), '.png') == {f'{photos}/b.png': f'{photos}/below/b.jpg'}


def test_a_tilde_that_the_shell_has_left(weights, photos, tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    assert command(photos / 'a.png', '--out=~/here', '--weights', weights) == 0
    assert files(tmp_path / 'here') == ['a.png']


def test_brackets_in_the_name_of_a_folder_are_no_pattern(photos, tmp_path):
    named = photos.rename(tmp_path / 'trip [2026]')
    assert len(plan([str(named)], str(tmp_path / 'out'))) == 3


# ---------------------------------------------------------------------- the command


def test_a_folder_with_a_bad_file_and_again(weights, photos, tmp_path, capsys):
    (photos / 'below/a_bad.jpg').write_bytes((photos / 'below/b.jpg').read_bytes()[:200])
    out = tmp_path / 'out'
    assert command(photos, '-o', out, '--weights', weights) == 1
    assert files(out) == ['a.png', 'below/b.jpg', 'below/deep/c.tif']  # the rest is done, nothing else is left
    printed, errors = capsys.readouterr()
    assert 'Restored 3 of 4 photos' in printed
    assert errors.count('error: ') == 1 and 'below/a_bad.jpg: cannot be read as an image' in errors

    os.remove(photos / 'below/a_bad.jpg')
    os.remove(out / 'a.png')
    (out / 'below/b.jpg').write_bytes(b'kept')
    assert command(photos, '-o', out, '--weights', weights) == 0
    assert (out / 'below/b.jpg').read_bytes() == b'kept' and (out / 'a.png').is_file()
    printed, _ = capsys.readouterr()
    assert '2 of 3 photos are restored already, with the weights given then; --overwrite' in printed
    assert 'Restored 1 of 1' in printed
    assert command(photos, '-o', out, '--weights', 'none.pth') == 0  # nothing to do, so no network is read
    assert command(photos, '-o', out, '--weights', weights, '--overwrite') == 0
    assert Photo(str(out / 'below/b.jpg')).height == 57


@pytest.mark.parametrize('value', [torch.nan, torch.inf])
def test_weights_that_give_no_numbers_restore_nothing(weights, photos, tmp_path, capsys, value):
    content = torch.load(weights)
    next(iter(content['params_ema'].values())).fill_(value)
    torch.save(content, weights)
    assert command(photos, '-o', tmp_path / 'out', '--weights', weights) == 1
    assert files(tmp_path / 'out') == []
    printed, errors = capsys.readouterr()
    assert 'Restored 0 of 3' in printed and ' 0 photos/s.' in printed
    assert f'{weights}: these weights restore {photos}/a.png to NaN or infinity. They are damaged' in errors
    assert command(photos, '-o', tmp_path / 'out', '--weights', weights, '--precision', 'fp16') == 1
    assert 'Take --precision fp32 or bf16.' in capsys.readouterr().err


def test_a_tile_that_is_no_number_is_told(photos, capsys):
    assert command(photos, '-o', 'out', '--tile', 'abc') == 2
    assert "argument --tile: invalid tile value: 'abc'" in capsys.readouterr().err


def test_a_file_that_cannot_be_written_stops_no_other(weights, photos, tmp_path, capsys, monkeypatch):
    replace = os.replace
    monkeypatch.setattr(os, 'replace', lambda source, target: (_ for _ in ()).throw(OSError(28, 'No space left'))
                        if target.endswith('b.jpg') else replace(source, target))
    assert command(photos, '-o', tmp_path / 'out', '--weights', weights) == 1
    assert files(tmp_path / 'out') == ['a.png', 'below/deep/c.tif']
    assert 'b.jpg: cannot be written' in capsys.readouterr().err


def test_ctrl_c_leaves_complete_files_only(weights, photos, tmp_path, capsys, monkeypatch):
    rows_of_file = Restorer.rows_of_file

    def interrupted(self, source, *args):
        if source.endswith('c.tif'):
            raise KeyboardInterrupt
        return rows_of_file(self, source, *args)

    monkeypatch.setattr(Restorer, 'rows_of_file', interrupted)
    assert command(photos, '-o', tmp_path / 'out', '--weights', weights) == 130
    assert files(tmp_path / 'out') == ['a.png', 'below/b.jpg']
    assert 'the same command goes on' in capsys.readouterr().err


@pytest.mark.parametrize('arguments, words', [
    (['--quality', '0'], '--quality is 0; it must be 1 to 100'),
    (['--batch', '0'], '--batch is 0; it must be 1'),
    (['--device', 'gpu'], '--device gpu'),
    (['--overlap', '-1'], '--overlap is -1'),
    (['--tile', '0', '--overlap', '50'], '--overlap 50: whole photos (--tile 0) have none'),
    (['--weights', 'none.pth'], 'none.pth'),
    (['-opt', 'none.yml'], 'none.yml'),
])
def test_bad_arguments_are_told_in_one_line(weights, photos, tmp_path, arguments, words):
    code = command(photos, '-o', tmp_path / 'out', '--weights', weights, *arguments)
    assert code.startswith('error: ') and words in code and len(code.splitlines()) == 1
    assert not (tmp_path / 'out').exists()


def test_a_link_to_a_folder_beside_it_is_the_one_that_is_passed_over(photos):
    (photos / 'a link').symlink_to(photos / 'below')
    assert sorted(plan([str(photos)], 'out')) == ['out/a.png', 'out/below/b.jpg', 'out/below/deep/c.tif']


def test_a_file_left_out_may_have_any_name(weights, photos, tmp_path, capsys):
    open(os.fsencode(photos) + b'/caf\xe9.txt', 'w').close()
    (photos / 'notes.txt').unlink()
    assert command(photos, '-o', tmp_path / 'out', '--weights', weights) == 0
    assert 'caf\\udce9.txt for example' in capsys.readouterr().out.encode().decode()  # what can be printed anywhere


def test_what_is_left_out_is_told(weights, photos, tmp_path, capsys):
    (photos / 'below/a.NEF').write_bytes(b'raw')
    (photos / '.hidden').write_bytes(b'')
    assert command(photos, '-o', tmp_path / 'out', '--weights', weights) == 0
    assert f'tiff, webp: 2, {photos}/below/a.NEF for example.' in capsys.readouterr().out
    assert command(photos / 'a.png', '-o', tmp_path / 'one', '--weights', weights) == 0
    assert 'Left out' not in capsys.readouterr().out


@ARCH_REGISTRY.register()
class Halving(torch.nn.Module):
    """Takes even sizes only, and does not say so."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, image):
        return image + torch.nn.functional.interpolate(image[..., ::2, ::2], scale_factor=2) * self.scale


def test_a_photo_that_the_network_does_not_take_stops_no_other(photos, tmp_path, capsys):
    torch.save({'params': Halving().state_dict(), 'network_g': {'type': 'Halving'}}, tmp_path / 'net.pth')
    assert command(photos, '-o', tmp_path / 'out', '--weights', tmp_path / 'net.pth', '--tile', 0) == 1
    told = capsys.readouterr().err
    for photo, size in (('b.jpg', '31x57'), ('c.tif', '20x9')):
        assert f'{photo}: Halving does not take an RGB image of {size} (RuntimeError' in told
    assert 'test_restorer.py, line' in told and 'size_multiple in its class' in told
    assert files(tmp_path / 'out') == ['a.png']


def test_a_name_that_is_not_utf_8_and_one_pixel_stop_no_other(weights, photos, tmp_path, capsys):
    shutil.copy(os.fsencode(photos / 'a.png'), os.fsencode(photos) + b'/caf\xe9.png')
    write_images(photos, {'b.png': np.full((1, 1), 100, np.uint8)})
    assert command(photos, '-o', tmp_path / 'out', '--weights', weights) == 1
    assert f'error: {photos}/caf\\udce9.png: the name is not UTF-8; rename it.' in capsys.readouterr().err
    assert files(tmp_path / 'out') == ['a.png', 'b.png', 'below/b.jpg', 'below/deep/c.tif']
    assert cv2.imread(str(tmp_path / 'out/b.png'), cv2.IMREAD_UNCHANGED).shape == (1, 1)


def test_a_folder_that_cannot_be_made_is_told_once(weights, photos):
    code = command(photos, '-o', photos / 'notes.txt', '--weights', weights)
    assert code.startswith('error: ') and 'notes.txt: this folder cannot be made' in code


@pytest.mark.parametrize('name, words', [
    ('models/net_diffusion_1.pth', 'is a diffusion network, .* Give the net_g_'),
    ('training_states/1.state', 'is the state of a training. Give models/net_g_'),
    ('models', 'is a folder; give a file, models/net_g_latest.pth'),
    ('text.pth', r'not a readable checkpoint \(nothing that torch.save writes\)'),
    ('bare.pth', 'does not say what network it is of, .* with -opt'),
])
def test_a_file_that_is_no_restoration_network_says_what_it_is(weights, tmp_path, name, words):
    (tmp_path / 'text.pth').write_text('network_g: {type: NAFNet}')
    torch.save(torch.load(weights)['params'], tmp_path / 'bare.pth')
    with pytest.raises(InputError, match=f'{name}: {words}'):
        load_trained(str(tmp_path / name))


def test_an_option_file_needs_the_weights_it_is_of(photos, tmp_path):
    code = command(photos, '-o', tmp_path / 'out', '-opt', 'net.yml')
    assert code.startswith('error: -opt net.yml: whose weights? Give them with --weights')


def test_best_device_is_the_processor_here(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.setattr(torch.backends.mps, 'is_available', lambda: True)
    assert module.best_device() == 'mps'
    monkeypatch.setattr(torch.backends.mps, 'is_available', lambda: False)
    assert module.best_device() == 'cpu'
