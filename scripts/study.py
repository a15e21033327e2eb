"""Train and measure variants x domains x seeds: python scripts/study.py options/study/controlled.yml --out OUT"""
from noiseda_model.study import main

if __name__ == '__main__':
    main()
