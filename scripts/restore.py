"""Restore photos with a trained network: python scripts/restore.py photos/ -o restored/ --weights net_g_latest.pth"""
from noiseda_model.restore_command import main

if __name__ == '__main__':
    main()
