"""Installs moleblend-fs: the library, fairseq's plugins, the C extension for shortest paths, and the command `moleblend`."""

import re
from pathlib import Path

from setuptools import Extension, find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (ROOT / "moleblend_fs" / "__init__.py").read_text(), re.MULTILINE).group(1)

TRAIN = [
    "torch>=2.9",
    "ve-fairseq>=0.12.3",
    "lmdb>=1.5",
    "safetensors>=0.4.5",
    "scikit-learn>=1.5",
    "tqdm>=4.66",
    "tensorboard>=2.17",
]
ONNX = ["onnxruntime>=1.20", "rdkit>=2025.3"]
EXTRAS = {
    "onnx": ONNX,  # all that exported models need: no torch
    "tables": ["openpyxl>=3.1", "pyarrow>=18"],
    "train": TRAIN,
    "chem": [*TRAIN, "rdkit>=2025.3", "ogb>=1.3.6"],
    "export": [*TRAIN, *ONNX, "onnx>=1.17"],
    "distributed": [*TRAIN, "deepspeed>=0.19"],
    "report": [*TRAIN, "matplotlib>=3.9"],
    "tune": [*TRAIN, "optuna>=5.0"],
    "explain": [*TRAIN, "captum>=0.8"],
    "qm9": [*TRAIN, "qm9pack>=1.0.3"],
    "docs": ["mkdocs-material>=9.6", "mkdocstrings-python>=2", "latex2mathml>=3.78", "nbconvert>=7.16"],
    "dev": [
        *(*TRAIN, "pytest>=8", "pytest-xdist>=3.8", "hypothesis>=6.100", "ruff>=0.12", "mypy>=1.11", "build>=1.2", *ONNX, "onnx>=1.17"),
        *("nbclient>=0.10", "nbformat>=5.10", "ipykernel>=6.29"),  # the notebooks
    ],
}

setup(
    name="moleblend-fs",
    version=VERSION,
    description="Multimodal molecular pretraining by blending 2D and 3D relations, on fairseq",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    # With this, an editable installation is a line in a .pth file; otherwise a finder, which is asked after the folder of the call: a clone
    # in there, whose folder has the package's name, would be taken for a package without content.
    package_dir={"": "."},
    packages=find_packages(include=["moleblend_fs", "moleblend_fs.*", "fairseq_plugins", "fairseq_plugins.*"]),
    package_data={"moleblend_fs": ["weights/*/*"]},  # weights that --weights takes by name
    ext_modules=[Extension("moleblend_fs.chem._paths", ["moleblend_fs/chem/_paths.c"], extra_compile_args=["-O3"])],
    python_requires=">=3.11,<3.13",
    install_requires=["numpy>=2.0"],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["moleblend = moleblend_fs.cli.main:main"]},
    classifiers=[
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX",
        "Programming Language :: C",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Chemistry",
    ],
)
