"""MoleBlend: multimodal molecular pretraining by blending 2D and 3D relations of atoms.

Importing this package is cheap on purpose: it loads neither torch, fairseq, deepspeed, rdkit nor triton.
"""

__version__ = "0.2.0"

_LAZY = {
    "Predictor": "moleblend_fs.predictions.api",
    "Embedder": "moleblend_fs.predictions.embedder",
    "Explainer": "moleblend_fs.predictions.explainer",
    "Finetuner": "moleblend_fs.finetune.estimators",
    "MoleBlendRegressor": "moleblend_fs.finetune.estimators",
    "MoleBlendClassifier": "moleblend_fs.finetune.estimators",
}
"""What is imported when it is asked for, and from where."""


def __getattr__(name: str):
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
