"""What is exported restores as PyTorch does, at odd sizes, in the programs the formats are for."""
import runpy

import numpy as np
import onnxruntime
import pytest
import safetensors.torch
import spandrel
import torch
from basicsr.archs import build_network
from cli import ROOT, run
from safetensors import SafetensorError
from tiny_networks import TINY

from noiseda_arch.spandrel_archs import REGISTRY, read_weights
from noiseda_basicsr import InputError
from noiseda_model.export import export
from noiseda_model.inference import restore
from noiseda_model.restorer import load_trained, network_of

SIZES = [(45, 61), (64, 48), (83, 51)]
# Those that take a second at most; docs/networks.md says what came of the others.
ANY_SIZE = ['RestorationUNet', 'EDSR', 'RCAN', 'RIDNet', 'RRDBNet', 'SRVGGNetCompact', 'SwinIR', 'Compact', 'DRUNet',
            'DnCNN', 'ESRGAN', 'FDAT', 'HAT', 'MoESR', 'NAFNet', 'PLKSR', 'RCAN_spandrel', 'RealPLKSR',
            'SwinIR_spandrel']
pytestmark = pytest.mark.filterwarnings('ignore')


def tiny(name, **changes):
    return build_network({'type': name, **TINY[name], **changes}).eval()


def images():
    return [torch.rand(1, 3, *size) for size in SIZES]


@torch.no_grad()
def assert_same(run, net, tolerance=1e-4):
    for image in images():
        expected = restore(net, image)
        torch.testing.assert_close(run(image), expected, rtol=0, atol=tolerance * max(1, expected.abs().max().item()))


@pytest.mark.parametrize('name', ANY_SIZE)
def test_onnx_and_torchscript_restore_images_of_any_size(name, tmp_path):
    net, onnx, script = tiny(name), str(tmp_path / 'net.onnx'), str(tmp_path / 'net.pt')
    assert 'any size' in export(net, onnx) and 'any size' in export(net, script)
    session = onnxruntime.InferenceSession(onnx)
    assert_same(lambda image: torch.from_numpy(session.run(None, {'image': image.numpy()})[0]), net)
    assert_same(torch.jit.load(script), net, tolerance=1e-6)


def test_a_square_network_is_exported_at_one_size(tmp_path):
    net, path = tiny('Uformer'), str(tmp_path / 'net.onnx')
    with pytest.raises(InputError, match='Uformer works on square images only.*--size'):
        export(net, path)
    with pytest.raises(InputError, match='128 256 does not suit Uformer, whose sides are equal, multiples of 128 and '):
        export(net, path, (128, 256))
    assert '128x128' in export(net, path, (128, 128))
    image = np.random.default_rng(0).random((1, 3, 128, 128), np.float32)
    restored, = onnxruntime.InferenceSession(path).run(None, {'image': image})
    with torch.no_grad():
        np.testing.assert_allclose(restored, net(torch.from_numpy(image)), atol=1e-4)


def test_a_network_that_cannot_be_exported_says_why_and_leaves_the_remedy(tmp_path, capfd):
    with pytest.raises(InputError, match='FFTformer cannot be exported for all sizes.*--size.*fft'):
        export(tiny('FFTformer'), str(tmp_path / 'net.onnx'))
    assert len(''.join(capfd.readouterr()).splitlines()) < 20  # torch would print the graph


@pytest.mark.parametrize('ending', ['.pth', '.safetensors'])
@pytest.mark.parametrize('name', ['NAFNet', 'SwinIR', 'SwinIR_spandrel', 'DRUNet', 'Restormer', 'HAT'])
def test_weights_load_in_spandrel(name, ending, tmp_path):
    net, path = tiny(name), str(tmp_path / f'net{ending}')
    assert 'restores alike' in export(net, path)
    loaded = spandrel.ModelLoader(registry=REGISTRY).load_from_file(path).eval()
    for image in (torch.rand(1, 3, 32, 48), torch.rand(1, 3, 64, 32)):
        with torch.no_grad():
            torch.testing.assert_close(loaded(image), net(image).clamp(0, 1))


def test_what_spandrel_cannot_tell_from_weights_is_named(tmp_path):
    (tmp_path / 'net.pth').write_text('an earlier one')
    with pytest.raises(InputError, match='/net.pth.*restores differently.*category_size 16'):
        export(tiny('ATD', category_size=16), str(tmp_path / 'net.pth'))
    assert (tmp_path / 'net.pth').read_text() == 'an earlier one' and len(list(tmp_path.iterdir())) == 1


def test_our_own_network_is_written_for_use_here(tmp_path):
    net, path = tiny('RestorationUNet'), str(tmp_path / 'net.safetensors')
    assert 'load it here' in export(net, path)
    assert {key: value.tolist() for key, value in safetensors.torch.load_file(path).items()} == \
        {key: value.tolist() for key, value in net.state_dict().items()}


@pytest.mark.parametrize('ending', ['.pth', '.safetensors'])
def test_a_file_of_our_own_network_says_what_it_is(ending, tmp_path):
    net, path = tiny('RestorationUNet'), str(tmp_path / f'net{ending}')
    export(net, path, network={'type': 'RestorationUNet', **TINY['RestorationUNet']})
    assert_same(load_trained(path), net, tolerance=0)


def test_averaged_weights_are_taken_unless_others_are_asked_for(tmp_path):
    plain, average, path = tiny('NAFNet'), tiny('NAFNet'), str(tmp_path / 'net.pth')
    torch.save({'params': plain.state_dict(), 'params_ema': average.state_dict()}, path)
    for key, expected in ((None, average), ('params_ema', average), ('params', plain)):
        assert all(torch.equal(value, expected.state_dict()[name])
                   for name, value in load_trained(path, key=key).state_dict().items())
    torch.save({'params': plain.state_dict()}, path)
    with pytest.raises(InputError, match="no entry 'params_ema'"):
        load_trained(path, key='params_ema')


@pytest.mark.parametrize('ending', ['.pth', '.safetensors'])
def test_weights_of_half_precision_restore_as_rounded_ones(ending, tmp_path):
    net, path = tiny('NAFNet'), str(tmp_path / f'net{ending}')
    line = export(net, path, half=True)
    assert 'restores alike' in line and 'Half precision changes the result by 0.' in line
    rounded = tiny('NAFNet')
    rounded.load_state_dict({name: value.half() for name, value in net.state_dict().items()})
    loaded = load_trained(path)
    assert {value.dtype for value in loaded.state_dict().values()} == {torch.float32}
    assert_same(loaded, rounded, tolerance=1e-6)
    assert {value.dtype for value in net.state_dict().values()} == {torch.float32}  # the network itself is as it was
    content = read_weights(path)
    assert {value.dtype for value in content.get('params', content).values()} == {torch.float16}


def test_half_precision_is_refused_where_it_does_harm_or_has_no_place(tmp_path):
    net = tiny('RestorationUNet')
    for ending in ('onnx', 'pt'):
        with pytest.raises(InputError, match=f'net.{ending}: half precision is for files of weights'):
            export(net, str(tmp_path / f'net.{ending}'), half=True)
    with torch.no_grad():
        net.to_residual.bias += 1e5  # beyond the largest number of half precision
    with pytest.raises(InputError, match='half precision the network restores differently, by .*leave --half out'):
        export(net, str(tmp_path / 'net.pth'), half=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('ending', ['.pth', '.safetensors', '.pt'])
def test_a_missing_folder_is_made(ending, tmp_path):
    net = tiny('RestorationUNet')
    export(net, str(tmp_path / f'new/net{ending}'))
    assert (tmp_path / f'new/net{ending}').is_file()
    with pytest.raises(InputError, match=f'new/net{ending}: this folder cannot be made'):
        export(net, str(tmp_path / f'new/net{ending}/net{ending}'))


@pytest.mark.parametrize('ending', ['.pth', '.safetensors', '.pt', '.onnx'])
def test_a_place_that_cannot_be_written_is_told(ending, tmp_path, monkeypatch):
    """Nothing of the writers' own words, which take it for a network that cannot be exported."""
    def refused(path, *args, **options):
        raise PermissionError(13, 'Permission denied', path)

    monkeypatch.setattr('builtins.open', refused)
    with pytest.raises(InputError, match=rf'net{ending}: cannot be written .*Permission denied.*Choose another place'):
        export(tiny('RestorationUNet'), str(tmp_path / f'net{ending}'))


@pytest.mark.parametrize('ending, writer, kind', [
    ('.safetensors', 'safetensors.torch.save_file', SafetensorError), ('.pth', 'torch.save', RuntimeError)])
def test_a_full_disk_is_told_and_leaves_the_earlier_file(ending, writer, kind, tmp_path, monkeypatch):
    def full(*args, **options):
        raise kind('I/O error: No space left on device (os error 28)')

    path = tmp_path / f'net{ending}'
    export(tiny('RestorationUNet'), str(path))
    before = path.read_bytes()
    monkeypatch.setattr(writer, full)
    with pytest.raises(InputError, match=f'net{ending}: .*written .*No space left.*Choose another place, or make room'):
        export(tiny('RestorationUNet'), str(path))
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_a_size_that_does_not_suit_is_told_in_words(tmp_path):
    with pytest.raises(InputError, match='101 100 does not suit RestorationUNet, whose sides are multiples of 2 and'):
        export(tiny('RestorationUNet'), str(tmp_path / 'net.pt'), (101, 100))


def test_a_pth_names_its_network_where_that_is_known(tmp_path):
    net, path, network = tiny('RestorationUNet'), str(tmp_path / 'net.pth'), {'type': 'RestorationUNet', 'width': 4,
                                                                              'depth': 2}
    export(net, path, network=network)
    assert network_of(read_weights(path)) == network
    assert_same(load_trained(path), net, tolerance=0)
    export(net, path, network={'type': 'SpandrelArch', 'path': 'elsewhere.pth'})
    assert network_of(read_weights(path)) is None


def test_the_source_is_not_written_over(tmp_path, monkeypatch):
    (tmp_path / 'net.pth').write_bytes(b'weights')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr('sys.argv', ['export.py', 'net.pth', str(tmp_path / 'net.pth')])
    with pytest.raises(SystemExit, match='error: .*net.pth: is read and would be overwritten'):
        runpy.run_path(str(ROOT / 'scripts/export.py'), run_name='__main__')
    assert (tmp_path / 'net.pth').read_bytes() == b'weights'


def test_the_command(tmp_path):
    torch.save({'params': tiny('RestorationUNet').state_dict()}, tmp_path / 'net.pth')
    (tmp_path / 'tiny.yml').write_text('network_g: {type: RestorationUNet, width: 4, depth: 2}')
    process = run([ROOT / 'scripts/export.py', 'net.pth', '-opt', 'tiny.yml', '--half', 'half.pth'], tmp_path)
    assert process.returncode == 0 and 'half.pth: written.' in process.stdout
    half = torch.load(tmp_path / 'half.pth', weights_only=True)
    assert {value.dtype for value in half['params'].values()} == {torch.float16}
    assert half['network_g'] == {'type': 'RestorationUNet', 'width': 4, 'depth': 2}
    process = run([ROOT / 'scripts/export.py', 'net.pth', '-opt', 'tiny.yml', 'a.pt', 'a.zip'], tmp_path)
    written, error = process.stdout.strip().splitlines()[-2:]
    assert written.startswith('a.pt: written, for images of any size') and (tmp_path / 'a.pt').is_file()
    assert error.startswith('error: a.zip: the ending must be one of') and process.returncode == 1
