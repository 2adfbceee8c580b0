from __future__ import annotations

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent


def read_version() -> str:
    """The version of the package, read without importing it (its imports need torch)."""
    namespace: dict[str, str] = {}
    exec((ROOT / 'mmdet_mobileformer' / 'version.py').read_text(encoding='utf-8'), namespace)
    return namespace['__version__']


TEST = ['pytest>=8', 'hypothesis>=6']

setup(
    name='mmdet-mobileformer',
    version=read_version(),
    description='Mobile-Former backbones and the end-to-end detector E2E-MF for MMDetection',
    license='Apache-2.0',
    python_requires='>=3.9',
    packages=find_packages(include=['mmdet_mobileformer', 'mmdet_mobileformer.*']),
    package_data={'mmdet_mobileformer': ['py.typed']},
    # torch, mmengine, mmcv and mmdet are needed and deliberately not listed. The OneDL forks of mm* have other distribution
    # names for the same modules, so naming the stock ones would install both over each other; and a listed torch makes pip
    # replace or download one of several GB where the user already chose a build. tools/setup_env.sh installs all of them.
    install_requires=[
        'numpy',  # arrays of images, boxes and checkpoints' numbers
    ],
    extras_require={
        'test': TEST,
        'dev': [*TEST, 'ruff', 'mypy'],
    },
    zip_safe=False,
)
