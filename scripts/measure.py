"""Measure photos without ground truth: python scripts/measure.py PHOTOS --clean CLEAN"""
from noiseda_data.measure import main

if __name__ == '__main__':
    main()
