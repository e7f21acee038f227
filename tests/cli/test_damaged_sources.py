"""Tables, SD files, packed files and Uni-Mol's files with damaged bytes: a store in which each row is accounted for, or a message."""

import collections
import gzip
import shutil

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from moleblend_fs.cli.main import main
from moleblend_fs.data.store import RECORDS, Store, forget
from tests.data.test_damage import damage
from tests.sources.test_unimol_lmdb import record, write

DAMAGED = 45
"""Files of each kind."""
SMILES = ("CCO", "CC(=O)N", "c1ccccc1O", "C", "CC(C)C#N", "[NH4+].[Cl-]", "F/C=C/F", "N[C@@H](C)O")


def table() -> bytes:
    rows = [f'{smiles},"{i + 0.25}",name {i}' if i % 3 else f'{smiles},{i + 0.25},"a ""b"", c"' for i, smiles in enumerate(SMILES * 4)]
    return "\r\n".join(["smiles,y,comment", *rows]).encode()


def structures() -> bytes:
    blocks = []
    for i, smiles in enumerate(SMILES[:5] * 3):
        mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
        rdDistGeom.EmbedMolecule(mol, randomSeed=1)
        blocks.append(f"{Chem.MolToMolBlock(mol)}> <y>\n{i + 0.25}\n\n$$$$\n")
    return "".join(blocks).encode()


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Source -> name of the file, its bytes, options."""
    lmdb = write(tmp_path_factory.mktemp("sources") / "a.lmdb", [record(s, i + 0.25) for i, s in enumerate(SMILES[:5] * 4)])
    return {
        "csv": ("a.csv", table(), ["--label", "y:regression"]),
        "csv packed": ("a.csv.gz", gzip.compress(table(), mtime=0), ["--label", "y:regression"]),
        "sdf": ("a.sdf", structures(), ["--label", "y:regression"]),
        "unimol": ("a.lmdb", lmdb.read_bytes(), ["--label", "y:regression"]),
    }


@pytest.mark.parametrize("kind", ["csv", "csv packed", "sdf", "unimol"])
def test_damaged_sources(sources, tmp_path, capsys, kind):
    name, whole, options = sources[kind]
    counts, molecules = collections.Counter(), 0
    for seed in range(DAMAGED):
        path, out = tmp_path / f"{seed}-{name}", tmp_path / f"s{seed}"
        path.write_bytes(damage(whole, np.random.default_rng(seed)))
        code = main(["preprocess", kind.split()[0], str(path), str(out), "--workers", "1", "--no-progress", "--split", "none", *options])
        said = capsys.readouterr().err
        counts[code] += 1
        if code == 0:
            store = Store(out)
            rows, failed = store.source_row.tolist(), [failure.row for failure in store.failures()]
            assert len(set(rows)) == len(rows), seed
            assert sorted({*rows, *failed}) == list(range(max([*rows, *failed]) + 1)), seed
            assert main(["inspect", str(out), "--molecules", "0", "--verify"]) == 0, seed
            molecules += len(rows)
        else:
            assert code == 2, seed
            assert said.startswith(("moleblend preprocess: ", "note: ")), seed
        capsys.readouterr()
        forget(out / RECORDS)
        shutil.rmtree(out, ignore_errors=True)
    print(f"\n{DAMAGED} damaged files ({kind}): exit codes {dict(counts)}, {molecules} molecules")
    assert counts[0] + counts[2] == DAMAGED
