"""Measure as the literature does: python scripts/evaluate.py --protocol spa --gt GT --results RESULTS --out OUT"""
from noiseda_model.protocols import main

if __name__ == '__main__':
    main()
