"""Train as an option file says, with all of BasicSR's flags: python scripts/train.py -opt options/train/demo.yml"""
from noiseda_model.cli import train

if __name__ == '__main__':
    train()
