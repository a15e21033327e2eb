"""Every option file: it parses, builds (smaller), and takes a real step or restores a real image."""
import os
import sys

import pytest
import torch
from basicsr.archs import build_network
from basicsr.data import build_dataloader, build_dataset
from basicsr.models import build_model
from cli import ROOT
from tiny_networks import TINY

from noiseda_arch.presets import PRESETS
from noiseda_basicsr.fixes import apply_fixes
from noiseda_basicsr.launch import parse_options
from noiseda_data.lmdb_writer import create_lmdb

SMALLER = {**TINY, 'ConditionalUNet': {'width': 32, 'multipliers': [1, 1, 1], 'blocks': 1}}
SMALLER |= {name: TINY[network['type']] for name, network in PRESETS.items()}
apply_fixes()


def option_files(kind):
    files = sorted((ROOT / 'options' / kind).glob('*.yml'))
    assert files
    return [pytest.param(file, id=file.stem) for file in files]


@pytest.fixture
def parse(tmp_path, image_folder, monkeypatch):
    """Read an option file as the launcher does, in a folder that holds all it names, and make its networks small."""
    monkeypatch.chdir(tmp_path)

    def make_source(path):
        if path.endswith('.lmdb'):
            create_lmdb(image_folder('images', 2), path)
        else:
            image_folder(path, 2)

    def read(file, *forced):
        monkeypatch.setattr(sys, 'argv', ['train.py', '-opt', str(file), *(('--force_yml', *forced) if forced else ())])
        opt, _ = parse_options(str(tmp_path), is_train=file.parent.name == 'train')
        for data_set in opt['datasets'].values():
            sources = [data_set[key] for key in data_set if key.startswith('dataroot_')]
            degradation = data_set.get('degradation')
            sources += [degradation['photos']] if 'photos' in (degradation or {}) else []
            for source in sources:
                for path in source.split(';'):
                    if not (tmp_path / path.strip()).exists():
                        make_source(path.strip())
        for block in ('network_g', 'network_diffusion'):
            if opt.get(block, {}).get('type') == 'SpandrelArch':
                small = build_network({'type': 'NAFNet', **TINY['NAFNet']})
                torch.save({'params': small.state_dict()}, opt[block]['path'])
            elif block in opt:
                opt[block].update(SMALLER[opt[block]['type']])
        return opt

    return read


@pytest.mark.parametrize('file', option_files('train'))
def test_train(file, parse):
    opt = parse(file)
    assert opt['name'] == file.stem.replace('train_demo', 'demo')
    train_and_validate(opt)


@pytest.mark.parametrize('variant', ['train_sidd', 'train_sidd_vanilla'])
@pytest.mark.parametrize('network', PRESETS)
def test_any_network_of_the_paper_takes_the_place_of_the_one_in_the_file(network, variant, parse):
    """docs/networks.md: one flag in place of an option file for each network and variant."""
    forced = f'name={variant}_{network}', f'network_g={{type: {network}}}'
    opt = parse(ROOT / f'options/train/{variant}.yml', *forced)
    assert (opt['name'], opt['network_g']['type']) == (f'{variant}_{network}', network)
    train_and_validate(opt, gt_size=128 if 'Uformer' in network else 32)


def train_and_validate(opt, gt_size=16):
    opt['path'].pop('pretrain_network_g', None)
    os.makedirs(opt['path']['models'])
    train = opt['datasets']['train']
    train.update(gt_size=gt_size, batch_size_per_gpu=1, num_worker_per_gpu=0, persistent_workers=False)
    loader = build_dataloader(build_dataset(train), train, num_gpu=0, seed=0)
    model = build_model(opt)
    before = {name: weights.clone() for name, weights in model.net_g.state_dict().items()}
    model.feed_data(next(iter(loader)))
    model.optimize_parameters(1)
    log = model.get_current_log()
    assert all(torch.isfinite(torch.tensor(value)) for value in log.values())
    assert any(not torch.equal(before[name], weights) for name, weights in model.net_g.state_dict().items())
    assert ('l_noise' in log) == ('network_diffusion' in opt)
    block = opt['train'].get('diffusion_opt')
    swaps = block is not None and block.get('residual_swap', True)
    assert ('l_con' in log) == swaps
    if 'val' in opt['datasets']:
        validate(model, opt, 'val')


@pytest.mark.parametrize('file', option_files('test'))
def test_test(file, parse):
    opt = parse(file)
    opt['path']['pretrain_network_g'] = None
    validate(build_model(opt), opt, 'test')


def validate(model, opt, phase):
    data_set = build_dataset(opt['datasets'][phase])
    model.validation(build_dataloader(data_set, opt['datasets'][phase]), 1, None, opt['val']['save_img'])
    if 'metrics' in opt['val']:
        assert all(0 < value < 100 for value in model.metric_results.values())


OWN_NETWORK = '''
import torch
from basicsr.utils.registry import ARCH_REGISTRY

NAME = 'my_network'  # the option file names this, so this file is imported

@ARCH_REGISTRY.register()
class MyNetwork(torch.nn.Module):
    size_multiple = 4

    def __init__(self, width=16):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.PixelUnshuffle(4), torch.nn.Conv2d(48, width, 3, padding=1),
                                       torch.nn.GELU(), torch.nn.Conv2d(width, 48, 3, padding=1),
                                       torch.nn.PixelShuffle(4))

    def forward(self, image):
        return image + self.net(image)
'''


def test_a_network_of_your_own_in_one_file(parse, tmp_path, monkeypatch):
    """docs/networks.md has the same file and the same two lines."""
    (tmp_path / 'my_network.py').write_text(OWN_NETWORK)
    lines = (ROOT / 'options/train/train_sidd.yml').read_text().splitlines()
    lines = ['network_g: {type: MyNetwork, width: 8}' if line.startswith('network_g:') else line for line in lines]
    (tmp_path / 'train').mkdir()
    file = tmp_path / 'train/train_sidd.yml'
    file.write_text('\n'.join(['my_network: !!python/name:my_network.NAME', *lines]))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(SMALLER, 'MyNetwork', {})
    train_and_validate(parse(file))
    assert OWN_NETWORK in (ROOT / 'docs/networks.md').read_text()
