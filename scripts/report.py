"""Show results on one page: python scripts/report.py vanilla=results/v adapted=results/a --lq LQ --gt GT"""
from noiseda_model.report.command import main

if __name__ == '__main__':
    main()
