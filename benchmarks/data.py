"""From molecules to batches: SMILES or SD records -> store (molecules/s, bytes per molecule), store -> packed batch of 128.

Rates of one process count its CPU seconds, which on an idle machine are the wall seconds: other work disturbs them less.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.harness import ROOT, Row, row, timed
from moleblend_fs.chem.parse import parse_smiles
from moleblend_fs.chem.smiles_to_graph import BuildOptions
from moleblend_fs.data.batch import collate
from moleblend_fs.data.batching import BatchBudget
from moleblend_fs.data.splits import Splitter
from moleblend_fs.data.store import Store
from moleblend_fs.sources.base import Source
from moleblend_fs.sources.delimited import Table
from moleblend_fs.sources.moleculenet import open_moleculenet
from moleblend_fs.sources.pcqm4mv2 import PCQM4Mv2
from moleblend_fs.sources.qm9 import open_qm9
from moleblend_fs.sources.run import preprocess

BATCH = 128
SCALING_MOLECULES = 12_000
LOADED_MOLECULES = 200_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    shared = os.environ.get("MOLEBLEND_SHARED", ROOT.parent / "shared")
    parser.add_argument(
        "--data", type=Path, default=Path(shared) / "data", help="folder with moleculenet/ and pcqm4mv2/ (default %(default)s)"
    )
    parser.add_argument("--repeats", type=int, default=5)


def main(args: argparse.Namespace) -> list[Row]:
    import torch

    torch.set_num_threads(1)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        lipo, hiv = (moleculenet(args.data / "moleculenet" / f"{name}.csv.gz") for name in ("lipo", "hiv"))
        pcqm = args.data / "pcqm4mv2"
        cases: list[tuple[str, Source, int | None, str]] = [
            ("Lipophilicity", lipo, None, ">= 1,200"),
            ("PCQM4Mv2, 2D", PCQM4Mv2(pcqm, structures=False), None, ">= 3,000"),
            ("PCQM4Mv2, 3D from SDF", PCQM4Mv2(pcqm), None, ""),
            ("QM9 with hydrogens", open_qm9(str(ROOT / "examples" / "quickstart" / "qm9_sample.csv.xz")), 2000, ""),
        ]
        for number, (case, source, limit, target) in enumerate(cases):
            rows += measure(Path(folder) / str(number), case, source, limit, target, args.repeats)
        rows.append(parsing(args.data / "moleculenet" / "lipo.csv.gz", args.repeats))
        rows += scaling(Path(folder), hiv)
        rows += loading(Store(Path(folder) / "2.0"), "PCQM4Mv2, 3D from SDF")
    return rows


def moleculenet(path: Path) -> Source:
    """A set with a scaffold split, the default."""
    return open_moleculenet(path, set_name=None, build=BuildOptions(scaffold="chiral"), splitter=Splitter(kind="scaffold", chirality=True))


def measure(out: Path, case: str, source: Source, limit: int | None, target: str, repeats: int) -> list[Row]:
    """Preprocess in one process, several times; then collate from the last store in random order."""
    paths = iter(out.with_name(f"{out.name}.{i}") for i in range(repeats + 1))
    stores: list[Path] = []

    def run() -> None:
        stores.append(next(paths))
        preprocess(source, stores[-1], limit=limit, progress=False)

    seconds = timed(run, repeats, clock=time.process_time)
    store = Store(stores[-1])
    name = f"{case} ({store.num_atoms.mean():.1f} atoms)"
    order = np.random.default_rng(0).permutation(len(store))
    batches = [order[i : i + BATCH] for i in range(0, len(order) - BATCH + 1, BATCH)]

    def read() -> None:
        for batch in batches:
            collate(store.records(batch))

    read_seconds = timed(read, 3 * repeats, clock=time.process_time)
    collate_target = {"Lipophilicity": ">= 8,000", "PCQM4Mv2, 2D": ">= 20,000", "PCQM4Mv2, 3D from SDF": ">= 20,000"}.get(case, "")
    size = store.manifest.records_bytes / len(store)
    return [
        row("data", name, "source to store, one process", "molecules/CPU s", [len(store) / s for s in seconds], target=target),
        row(
            "data",
            name,
            f"store to batch of {BATCH}",
            "molecules/CPU s",
            [len(batches) * BATCH / s for s in read_seconds],
            target=collate_target,
        ),
        row("data", name, "store", "bytes/molecule", [size], target="<= 2,500" if case.startswith("PCQM") else ""),
    ]


def parsing(path: Path, repeats: int) -> Row:
    """RDKit's parser alone: the part of preprocessing that is not ours."""
    smiles = [row.cells[0] for row in Table(path, []).rows()]
    seconds = timed(lambda: [parse_smiles(s) for s in smiles], repeats, clock=time.process_time)
    return row("data", "Lipophilicity", "RDKit parsing alone", "molecules/CPU s", [len(smiles) / s for s in seconds])


def scaling(folder: Path, source: Source) -> list[Row]:
    """Preprocessing with one, two, four ... processes, as many as there are cores, start-up included.

    Wall time suffers from whatever else runs on the machine; CPU time tells what the work in parallel costs in all.
    """
    cores = len(os.sched_getaffinity(0))
    case = f"HIV, first {SCALING_MOLECULES:,}"
    rows: list[Row] = []
    alone = 0.0
    for workers in (n for n in (1, 2, 4, 8, 16, 32) if n <= cores):
        wall, cpu = [], []
        for repeat in range(3):
            begin, cpu_begin = time.perf_counter(), sum(os.times()[:4])
            preprocess(source, folder / f"workers{workers}.{repeat}", workers=workers, limit=SCALING_MOLECULES, progress=False)
            wall.append(time.perf_counter() - begin)
            cpu.append(sum(os.times()[:4]) - cpu_begin)
        alone = alone or float(np.median(wall))
        plural = "process" if workers == 1 else "workers"
        rows.append(row("data", case, f"source to store, {workers} {plural}", "molecules/s", [SCALING_MOLECULES / s for s in wall]))
        rows.append(row("data", case, f"CPU time, {workers} {plural}", "s/1,000 molecules", [1000 * s / SCALING_MOLECULES for s in cpu]))
        if workers > 1:
            rows.append(row("data", case, f"speed-up of {workers} workers", "x", [alone / s for s in wall], target="near-linear"))
    return rows


def loading(store: Store, case: str) -> list[Row]:
    """What training gets from its loader: batches of 1,024 from worker processes, in the order of an epoch, doing nothing else."""
    from fairseq_plugins.batch_plan import BatchPlan
    from fairseq_plugins.dataset import StoreDataset
    from fairseq_plugins.patches.epoch_iterator import epoch_iterator

    dataset = StoreDataset(store, np.tile(np.arange(len(store)), LOADED_MOLECULES // len(store) + 1)[:LOADED_MOLECULES])
    rows: list[Row] = []
    for workers in (n for n in (1, 2, 4, 8) if n <= len(os.sched_getaffinity(0))):
        rates = []
        for epoch in range(1, 4):
            plan = BatchPlan(dataset, BatchBudget(molecules=1024), 32, seed=1)
            options = {"num_shards": 1, "shard_id": 0, "num_workers": workers, "epoch": epoch, "buffer_size": 10}
            batches = epoch_iterator(dataset, plan, seed=1, **options).next_epoch_itr()
            next(batches)  # the workers are there
            begin, seen = time.perf_counter(), 0
            for batch in batches:
                seen += batch["nsentences"]
            rates.append(seen / (time.perf_counter() - begin))
        target = ">= 60,000" if workers == 8 else ""
        rows.append(row("data", case, f"store to training loop, {workers} loader workers", "molecules/s", rates, target=target))
    return rows
