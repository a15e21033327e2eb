"""Some joint steps on the ranks' shares of fixed batches; rank 0 writes losses and weights to the file of argv[1].

Started plain or by torchrun; argv[2] is the option file (JSON).
"""
import gc
import json
import os
import sys

import torch

from noiseda_basicsr.fixes import apply_fixes
from noiseda_model import NoiseDAModel
from noiseda_model.diffusion import Draws

BATCH, SIZE, STEPS = 4, 8, 4


def main(target, option_file):
    torch.set_num_threads(1)
    apply_fixes()
    rank, world = int(os.environ.get('RANK', 0)), int(os.environ.get('WORLD_SIZE', 1))
    if world == 1:
        return train(target, option_file, rank, world)
    torch.distributed.init_process_group('gloo')
    train(target, option_file, rank, world)
    gc.collect()  # as in noiseda_basicsr.launch
    torch.distributed.destroy_process_group()


def train(target, option_file, rank, world):
    with open(option_file) as file:
        opt = {**json.load(file), 'rank': rank, 'world_size': world, 'dist': world > 1}
    torch.manual_seed(0)
    model = NoiseDAModel(opt)
    for net in (model.net_g, model.net_diffusion):
        for parameter in net.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    share = slice(rank * BATCH // world, (rank + 1) * BATCH // world)
    losses = []
    for step in range(1, STEPS + 1):
        generator = torch.Generator().manual_seed(step)
        images = torch.rand(3, BATCH, 3, SIZE, SIZE, generator=generator)
        draws = Draws(torch.rand(BATCH, generator=generator), torch.randn(BATCH, 3, SIZE, SIZE, generator=generator),
                      torch.rand(BATCH, generator=generator) < 0.5, torch.rand(BATCH, generator=generator) < 0.5)
        model.draw = lambda draws=draws: Draws(*(values[share] for values in draws))
        model.feed_data(dict(zip(('lq', 'gt', 'real'), images[:, share], strict=True)))
        model.optimize_parameters(step)
        losses.append(model.get_current_log())
    if world > 1:
        watched = model.monitor.batch['lq']
        everywhere = [torch.empty_like(watched) for _ in range(world)]
        torch.distributed.all_gather(everywhere, watched)
        assert all(torch.equal(everywhere[0], other) for other in everywhere), 'the monitor looks at other samples'
    if rank == 0:
        nets = (model.net_g, model.net_diffusion, model.net_g_ema)
        weights = [model.get_bare_model(net).state_dict() for net in nets]
        torch.save({'losses': losses, 'weights': weights}, target)


if __name__ == '__main__':
    main(*sys.argv[1:])
