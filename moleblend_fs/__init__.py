"""MoleBlend: multimodal molecular pretraining by blending 2D and 3D relations of atoms.

Importing this package is cheap on purpose: it loads neither torch, fairseq, deepspeed, rdkit nor triton.
"""

__version__ = "0.1.0"
