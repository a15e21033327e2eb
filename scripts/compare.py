"""Measure trained networks on the same test photos: a table, a CSV and one comparison picture.

    python scripts/compare.py -opt options/train/train_polyu.yml --lq datasets/polyu_test_noisy.lmdb \\
        --gt datasets/polyu_test_clean.lmdb --out results/polyu \\
        vanilla=experiments/train_polyu_vanilla/models/net_g_latest.pth \\
        adapted=experiments/train_polyu/models/net_g_latest.pth
"""
from noiseda_model.comparison import main

if __name__ == '__main__':
    main()
