from pathlib import Path

from setuptools import setup

NETWORKS = ['spandrel_extra_arches>=0.2.0']  # Restormer, MPRNet, MIRNet2 and others; mind their licences
EXPORT = ['onnx', 'onnxruntime']
DEMO = ['gradio>=6']
DOCS = ['latex2mathml', 'mkdocs-material', 'mkdocstrings[python]']

setup(
    name='noiseda',
    version='0.9.0',
    description='Noise-space domain adaptation for image restoration: a BasicSR plugin (ICLR 2025)',
    long_description=Path(__file__).with_name('README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    python_requires='>=3.10',
    packages=['noiseda_arch', 'noiseda_basicsr', 'noiseda_data', 'noiseda_data.degradations', 'noiseda_model',
              'noiseda_model.report'],
    package_data={'noiseda_model': ['weights/*'], 'noiseda_model.report': ['page.*']},
    install_requires=[
        'basicsr>=1.4.2',
        'lmdb>=1.4',
        'lpips>=0.1.4',
        'matplotlib',
        'numpy',
        'opencv-python',
        'psutil',
        'pyvips[binary]>=3',
        'pyyaml',
        'safetensors',
        'scikit-image',
        'scipy',
        'setuptools; python_version >= "3.12"',  # BasicSR imports distutils
        'spandrel>=0.4.2,<0.5',
        'tb-nightly',
        'torch>=2.6',
        'torchvision',
        'tqdm',
    ],
    extras_require={
        'networks': NETWORKS,
        'export': EXPORT,
        'demo': DEMO,
        'docs': DOCS,
        'test': ['hypothesis', 'playwright', 'pytest', 'pytest-xdist', 'ruff', *NETWORKS, *EXPORT, *DEMO, *DOCS],
    },
    entry_points={
        'console_scripts': [
            'noiseda-demo = noiseda_model.demo:main',
            'noiseda-diagnose = noiseda_model.diagnosis:main',
            'noiseda-evaluate = noiseda_model.protocols:main',
            'noiseda-measure = noiseda_data.measure:main',
            'noiseda-prepare = noiseda_data.prepare:main',
            'noiseda-report = noiseda_model.report.command:main',
            'noiseda-restore = noiseda_model.restore_command:main',
            'noiseda-select = noiseda_model.selection:main',
            'noiseda-train = noiseda_model.cli:train',
            'noiseda-test = noiseda_model.cli:test',
        ],
    },
)
