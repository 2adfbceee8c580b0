from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent


def read_version() -> str:
    """The version of the package, read without importing it (its imports need torch)."""
    namespace: dict[str, str] = {}
    exec((ROOT / 'mmdet_mobileformer' / 'version.py').read_text(encoding='utf-8'), namespace)
    return namespace['__version__']


class BuildWithMim(build_py):
    """Puts configs, tools and model-index.yml where mim looks for them, as mmdet's own wheel does.

    That is `.mim` inside the package. An editable installation has them in the checkout already.
    """

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib) / 'mmdet_mobileformer' / '.mim'
        shutil.rmtree(target, ignore_errors=True)  # what an earlier build left
        for folder in ('configs', 'tools'):
            shutil.copytree(
                ROOT / folder, target / folder, ignore=shutil.ignore_patterns('__pycache__', '*.py[cod]')
            )
        shutil.copy2(ROOT / 'model-index.yml', target)


TEST = [
    'pytest>=8',  # runs the tests
    'pytest-xdist>=3',  # on all cores
    'hypothesis>=6',  # makes the cases of the property tests
]

setup(
    name='mmdet-mobileformer',
    version=read_version(),
    description='Mobile-Former backbones and the end-to-end detector E2E-MF for MMDetection',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    python_requires='>=3.9',
    packages=find_packages(include=['mmdet_mobileformer', 'mmdet_mobileformer.*']),
    include_package_data=True,  # whatever lies in the package and MANIFEST.in names
    cmdclass={'build_py': BuildWithMim},
    # torch, mmengine, mmcv and mmdet are needed and deliberately not listed. The OneDL forks of mm* have other distribution
    # names for the same modules, so naming the stock ones would install both over each other; and a listed torch makes pip
    # replace or download one of several GB where the user already chose a build. tools/setup_env.sh installs all of them.
    install_requires=[
        'numpy',  # arrays of images, boxes and checkpoints' numbers
        'safetensors>=0.4',  # weights in files that cannot hold code: half a megabyte, needs nothing else
    ],
    entry_points={'console_scripts': ['mobileformer-detect = mmdet_mobileformer.runtime.command:main']},
    extras_require={
        'runtime': [  # to detect without torch and mm*: mmdet_mobileformer.runtime, mobileformer-detect
            'onnxruntime>=1.20',  # runs the exported file (or openvino, which is not listed: one is enough)
            'opencv-python-headless>=4.9',  # reads, resizes and draws as mmdet does; without libGL
        ],
        'deploy': [  # to export and to quantise
            'onnx>=1.17',  # writes the file and its metadata
            'onnxscript>=0.5',  # torch's exporter is written with it
            'onnxruntime>=1.20',  # compares the file with PyTorch, quantises it
            'sympy',  # shapes in onnxruntime's quantisation; torch needs it too
            'openvino>=2025.0',  # the second format, and the second engine
        ],
        'fast': ['ninja>=1.11'],  # builds the compiled kernels of `deploy()`, with g++
        'eval': ['faster-coco-eval>=1.6'],  # COCO evaluation in C++: FastCocoMetric
        'bench': ['psutil>=5.9'],  # memory of the benchmark's and the soak test's processes
        'tensorboard': ['tensorboard>=2.15'],  # mmengine's TensorboardVisBackend
        'test': TEST,  # to run the tests of an installed package
        'dev': [
            *TEST,
            'ruff',  # lint, `make lint`
            'mypy',  # types, `make typecheck`
        ],
    },
    zip_safe=False,
)
