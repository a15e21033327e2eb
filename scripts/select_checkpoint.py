"""Rank checkpoints without ground truth.

    python scripts/select_checkpoint.py experiments/NAME --lq PHOTOS --clean CLEAN --out OUT

(Not called select.py, which would hide the standard library's module of that name from everything run beside it.)
"""
from noiseda_model.selection import main

if __name__ == '__main__':
    main()
