"""A model of `chemprop train` in memory, without Lightning's trainer, in batches of 64: `serve FOLDER`."""

import sys
from pathlib import Path

import torch
from chemprop.data import MoleculeDatapoint, MoleculeDataset, build_dataloader
from chemprop.models import load_model
from serving import serve


def main(folder: str) -> None:
    model = load_model(next(Path(folder).glob("model_0/best*.pt")), multicomponent=False).eval()

    @torch.inference_mode()
    def predict(smiles: list[str]) -> list[float]:
        data = MoleculeDataset([MoleculeDatapoint.from_smi(each) for each in smiles])
        loader = build_dataloader(data, batch_size=64, num_workers=0, shuffle=False, drop_last=False)
        return [float(value) for batch in loader for value in model(batch.bmg, batch.V_d, batch.X_d).flatten()]

    serve(predict)


if __name__ == "__main__":
    main(sys.argv[2])
