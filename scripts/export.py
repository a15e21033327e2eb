"""Write a trained restoration network for other programs; every file is read back and compared.

    python scripts/export.py experiments/train_polyu/models/net_g_latest.pth -opt options/train/train_polyu.yml \\
        net.onnx net.pt net.safetensors net.pth

The endings choose the formats: .pth and .safetensors hold the weights, for spandrel and the programs built on it;
.onnx (pip install onnx onnxruntime) and .pt (TorchScript) hold the computation, for images of any size.
"""
import argparse

from noiseda_arch.spandrel_archs import read_weights
from noiseda_basicsr import errors_in_one_line
from noiseda_model.commands import refuse_overwriting
from noiseda_model.export import export
from noiseda_model.restorer import load_trained, network_of


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('weights', help='net_g_*.pth, or any file that spandrel recognises')
    parser.add_argument('files', nargs='+', help='files to write')
    parser.add_argument('-opt', help='option file of the network, for weights that do not say what they are')
    parser.add_argument('--key', choices=['params_ema', 'params'], help='weights to take (default: averaged, if there)')
    parser.add_argument('--half', action='store_true', help='weights of half precision, for .pth and .safetensors')
    parser.add_argument('--size', nargs=2, type=int, metavar=('H', 'W'), help='one image size, for .onnx and .pt')
    args = parser.parse_args()
    with errors_in_one_line():
        refuse_overwriting(args.files, [args.weights])
        net = load_trained(args.weights, args.opt, args.key)
        network = network_of(read_weights(args.weights), args.opt)
        for path in args.files:
            print(export(net, path, args.size, network, args.half), flush=True)


if __name__ == '__main__':
    main()
