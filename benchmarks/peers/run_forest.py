"""ECFP4 of 2,048 bits and a random forest of 200 trees: `train TABLE FOLDER` or `serve FOLDER`."""

import sys
from pathlib import Path

import joblib
import numpy as np
from rdkit import Chem
from rdkit.Chem import rdFingerprintGenerator
from serving import read, serve, write
from sklearn.ensemble import RandomForestRegressor

GENERATOR = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)


def fingerprints(smiles: list[str]) -> np.ndarray:
    return np.stack([GENERATOR.GetFingerprintAsNumPy(Chem.MolFromSmiles(each)) for each in smiles])


def train(table: str, folder: str) -> None:
    parts, out = read(table), Path(folder)
    model = RandomForestRegressor(n_estimators=200, max_features=1 / 3, random_state=0, n_jobs=1)
    model.fit(fingerprints(parts["train"][0]), parts["train"][1])
    out.mkdir(parents=True, exist_ok=True)
    joblib.dump(model, out / "model.joblib")
    write(out / "test.json", model.predict(fingerprints(parts["test"][0])))


if __name__ == "__main__":
    if sys.argv[1] == "train":
        train(*sys.argv[2:])
    else:
        trained = joblib.load(Path(sys.argv[2]) / "model.joblib")
        serve(lambda smiles: trained.predict(fingerprints(smiles)))
