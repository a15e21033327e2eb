from pathlib import Path

from setuptools import setup

setup(
    name='noiseda',
    version='0.1.0',
    description='Noise-space domain adaptation for image restoration: a BasicSR plugin (ICLR 2025)',
    long_description=Path(__file__).with_name('README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    python_requires='>=3.10',
    packages=['noiseda_arch', 'noiseda_basicsr', 'noiseda_data', 'noiseda_data.degradations', 'noiseda_model'],
    install_requires=[
        'basicsr>=1.4.2',
        'lmdb>=1.4',
        'lpips>=0.1.4',
        'numpy',
        'opencv-python',
        'pyyaml',
        'setuptools; python_version >= "3.12"',  # BasicSR imports distutils
        'tb-nightly',
        'torch>=2.6',
        'torchvision',
        'tqdm',
    ],
    extras_require={'test': ['hypothesis', 'pytest', 'ruff']},
    entry_points={
        'console_scripts': [
            'noiseda-train = noiseda_model.cli:train',
            'noiseda-test = noiseda_model.cli:test',
        ],
    },
)
