"""Restore photos in the browser: python scripts/demo_app.py net_g_latest.pth"""
from noiseda_model.demo import main

if __name__ == '__main__':
    main()
