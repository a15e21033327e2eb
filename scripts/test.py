"""Test as an option file says, with all of BasicSR's flags: python scripts/test.py -opt options/test/polyu.yml"""
from noiseda_model.cli import test

if __name__ == '__main__':
    test()
