"""The paper's Fig. 1(a): python scripts/condition_study.py -opt OPT --images IMAGES --out OUT NAME=WEIGHTS ..."""
from noiseda_model.condition_study import main

if __name__ == '__main__':
    main()
