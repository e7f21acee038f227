"""Array jobs under a real Slurm: sharded preprocessing, finetuning trials and their table, and how failures are told."""

import csv

import pytest

from moleblend_fs.data.store import Store
from tests.cluster.conftest import ENDED, SLURM
from tests.conftest import preprocessed

SIZE = "--layers 1 --embed-dim 16 --ffn-dim 16 --attention-heads 2 --gaussians 8 --pair-dim 4 --hidden-3d 8"


@pytest.fixture(scope="module")
def moleculenet(tmp_path_factory):
    """Two small sets in the form in which they are distributed: one of classification, one of regression."""
    folder = tmp_path_factory.mktemp("moleculenet")
    smiles = ["CCO", "CCN", "c1ccccc1", "CC(=O)O", "C1CCCCC1", "CCCC", "OCCO", "CC#N", "CCCl", "c1ccncc1", "CC(C)C", "NCCN"]
    rows = [f"{s}{'C' * (i // 12)}" for i, s in enumerate(smiles * 5)]
    (folder / "bbbp.csv").write_text("smiles,p_np\n" + "".join(f"{s},{i // 12 % 2}\n" for i, s in enumerate(rows)))
    (folder / "esol.csv").write_text(
        "smiles,measured log solubility in mols per litre\n" + "".join(f"{s},{len(s) / 4 - i % 2}\n" for i, s in enumerate(rows))
    )
    return folder


def test_preprocessing_in_shards(cluster, qm9_sample, tmp_path):
    """A shard that fails stops the merge; the same command makes what is missing; the store is the unsharded one."""
    out = tmp_path / "store"
    options = ("qm9", qm9_sample, out, "--limit", "1200")
    broken = tmp_path / "store.shards" / "2-of-3.partial"
    broken.mkdir(parents=True)
    (broken / "work.lmdb").write_text("no LMDB file, and larger than its header: " + "x" * 8192)
    jobs = cluster.submit("preprocess_array.sbatch", *options, SHARDS=3, CPUS=1)
    merge = cluster.wait(jobs["merge"], ENDED)[0]
    assert merge["JobState"] == "CANCELLED"
    assert merge["Reason"] == "DependencyNeverSatisfied"
    states = {task["ArrayTaskId"]: task["JobState"] for task in cluster.jobs(jobs["shards"])}
    assert states == {"0": "COMPLETED", "1": "COMPLETED", "2": "FAILED"}
    assert not out.exists()

    for path in broken.iterdir():
        path.unlink()
    jobs = cluster.submit("preprocess_array.sbatch", *options, SHARDS=3, CPUS=1)
    assert cluster.wait(jobs["merge"], ENDED)[0]["JobState"] == "COMPLETED"
    whole = preprocessed(tmp_path / "whole", "qm9", str(qm9_sample), "--limit", "1200")
    assert Store(out).manifest.records_sha256 == whole.manifest.records_sha256
    assert Store(out).manifest.splits == whole.manifest.splits


def test_finetuning_array_and_its_table(warm_cluster, moleculenet, tmp_path):
    """Two sets x two trials x two seeds, one of the trials impossible; then mended."""
    trials = tmp_path / "trials.txt"
    trials.write_text(f"# two settings\nEPOCHS=2 BATCH=16 {SIZE} --lr 1e-3\nEPOCHS=2 BATCH=16 {SIZE} --attention-heads 3\n")
    out = tmp_path / "runs"
    settings = {"OUT": out, "STORES": tmp_path / "stores", "DATA": moleculenet, "DATASETS": "bbbp esol", "SEEDS": "0 1", "TRIALS": trials}
    settings |= {"PRETRAINED": "none", "GPUS": 0, "CPUS": 1, "ARCH": "tiny"}
    jobs = warm_cluster.submit("finetune_array.sbatch", **settings)
    assert list(jobs) == ["stores", "tasks", "collect"]
    collect = warm_cluster.wait(jobs["collect"], ENDED)[0]
    states = {int(task["ArrayTaskId"]): task["JobState"] for task in warm_cluster.jobs(jobs["tasks"])}
    assert states == {n: "FAILED" if n in (2, 3, 6, 7) else "COMPLETED" for n in range(8)}
    assert (collect["JobState"], collect["ExitCode"]) == ("FAILED", "1:0")
    said = (out / "collect.out").read_text()
    assert "4 of 8 tasks finished" in said
    assert "task 6 (esol, trial 1, seed 0): failed with exit code 1" in said
    assert "--embed-dim" in said  # the reason, from the end of the task's output
    assert "ARRAY=2,3,6,7 ./scripts/slurm/finetune_array.sbatch" in said

    rows = [line.split() for line in said.splitlines()]
    assert [row[:4] for row in rows if row and row[0] in ("bbbp", "esol")] == [["bbbp", "0", "2", "roc_auc"], ["esol", "0", "2", "rmse"]]
    with open(out / "results.csv") as stream:
        results = {int(row["number"]): row for row in csv.DictReader(stream)}
    assert [n for n, row in results.items() if row["test"]] == [0, 1, 4, 5]
    assert len({results[n]["test"] for n in (4, 5)}) == 2  # the seed makes a difference
    # Mended, and one of them submitted again.
    warm_cluster.run("sed", "-i", "s/--attention-heads 3/--attention-heads 4/", out / "tasks.tsv", trials)
    again = warm_cluster.submit("finetune_array.sbatch", **settings, ARRAY=6)
    warm_cluster.wait(again["collect"], ENDED)
    done = warm_cluster.run(SLURM / "collect.sh", out, check=False)
    assert done.returncode == 1
    assert "5 of 8 tasks finished" in done.stdout
    assert [line.split()[:3] for line in done.stdout.splitlines() if line.startswith("esol")] == [["esol", "0", "2"], ["esol", "1", "1"]]
