"""From a data set as it is downloaded to LMDBs: python scripts/prepare.py bsds500 --src BSR --dst datasets"""
from noiseda_data.prepare import main

if __name__ == '__main__':
    main()
