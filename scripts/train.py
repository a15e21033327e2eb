"""Train as an option file says, with all flags of BasicSR: python scripts/train.py -opt FILE.yml"""
from noiseda_model.cli import train

if __name__ == '__main__':
    train()
