"""A model of `moleblend finetune`, or a checkpoint, in memory: `serve MODEL`. Training molecules are not compared with."""

import sys
import warnings

from serving import serve

from moleblend_fs import Predictor

if __name__ == "__main__":
    warnings.simplefilter("ignore")  # an untrained model does not say what it was trained on
    with Predictor(sys.argv[2], similarity=False, device="cpu") as predictor:
        serve(lambda smiles: predictor.predict(smiles).values[:, 0])
