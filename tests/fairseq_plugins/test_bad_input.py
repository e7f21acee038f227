"""Mistakes: exit code 2, a message that says what, where and how to mend it, no traceback.

One is made with the command itself, one of each way to fail as a process of its own, the others with its main function here, which saves
seconds for each.
"""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from moleblend_fs.data.store import Store
from tests.conftest import preprocessed
from tests.fairseq_plugins.runs import ADAM, FINETUNE, PRETRAIN, SMALL, Run, train, train_command, train_forked

pytestmark = pytest.mark.slow


class Malicious:
    """Unpickling this would create a folder."""

    def __init__(self, path: Path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def damaged(store: Store, path: Path, change) -> str:
    shutil.copytree(store.path, path)
    change(path)
    return str(path)


def truncate(path: Path) -> None:
    records = path / "records.lmdb"
    records.write_bytes(records.read_bytes()[:-4096])


def overwrite(path: Path) -> None:
    records = path / "records.lmdb"
    records.write_bytes(b"no database" + bytes(records.stat().st_size - 11))


def older(path: Path) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(manifest | {"featurisation_version": 0}))


@pytest.fixture(scope="module")
def cases(qm9_store, tox21_store, awkward_store, tmp_path_factory) -> dict[str, tuple[list[str], list[str]]]:
    """Name -> (arguments after the store and --save-dir, what the message must hold)."""
    folder = tmp_path_factory.mktemp("bad")
    qm9, flat, mixed = str(qm9_store.path), str(tox21_store.path), str(awkward_store.path)
    pretrain, finetune = [*PRETRAIN, *SMALL], [*FINETUNE, *SMALL]
    train(qm9, folder / "run", *pretrain, *ADAM, "--batch-size", "64", "--max-update", "1")
    source = str(folder / "run" / "checkpoint_last.pt")
    shutil.copytree(folder / "run", folder / "wider")
    torch.save({"model": {"x": torch.zeros(1)}, "args": Malicious(folder / "trap")}, folder / "evil.pt")
    (folder / "resume_evil").mkdir()
    shutil.copy(folder / "evil.pt", folder / "resume_evil" / "checkpoint_last.pt")
    (folder / "text.pt").write_text("hello")
    (folder / "list.smi").write_text("".join(f"{'C' * length}O\n" for length in range(1, 31)))
    unlabelled = preprocessed(folder / "unlabelled", "smiles", str(folder / "list.smi"))
    make = "moleblend preprocess"
    return {
        "no store": ([str(folder / "nowhere"), *pretrain], ["nowhere: no such store", make]),
        "a folder that is no store": ([str(folder), *pretrain], [f"{folder}: not a store", "manifest.json", make]),
        "truncated": (
            [damaged(qm9_store, folder / "cut", truncate), *pretrain],
            ["cut/records.lmdb", "the manifest says", "copy it again"],
        ),
        "no LMDB": ([damaged(qm9_store, folder / "zero", overwrite), *pretrain], ["zero/records.lmdb: not an LMDB file", make]),
        "featurisation": ([damaged(qm9_store, folder / "old", older), *pretrain], ["old: store of format 2, featurisation 0", make]),
        "ratio": ([qm9, *pretrain, "--blend-ratio", "0.2,0.2,0.5"], ["--blend-ratio", "sum to 1", "0.9"]),
        "target": ([qm9, *finetune, "--targets", "gap,colour"], ["no label 'colour'", "it has: alpha, gap"]),
        "mixed kinds": ([mixed, *finetune], ["y (regression), c (classification)", "--targets"]),
        "3D finetuning of 2D": ([flat, *finetune, "--inputs", "2d+3d"], ["--inputs 2d+3d", "no 3D structures", "--inputs 2d"]),
        "3D alone, some without": (
            [mixed, *finetune, "--targets", "y", "--inputs", "3d"],
            ["--inputs 3d", "no 3D structure", "use 2d+3d or 2d"],
        ),
        "3D pretraining of 2D": ([flat, *pretrain], ["no 3D structures", "--geometry-weight 0 --noise-weight 0"]),
        "no labels": ([str(unlabelled.path), *finetune], ["unlabelled has no labels"]),
        "split": ([flat, *finetune, "--valid-subset", "dev"], ["no split 'dev'", "train, valid, test"]),
        "width": ([qm9, *pretrain, "--embed-dim", "30", "--attention-heads", "4"], ["--embed-dim 30", "--attention-heads 4"]),
        "no limit": ([qm9, *pretrain, "--batch-size="], ["a batch needs a limit", "--batch-size, --max-tokens or --max-pairs"]),
        "too small a budget": (
            [mixed, *pretrain, "--max-tokens", "50", "--batch-size="],
            ["218 atoms alone is over --max-tokens 50", "raise"],
        ),
        "another architecture": (
            [qm9, *pretrain, "--embed-dim", "32", f"--save-dir={folder / 'wider'}"],
            [
                "checkpoint_last.pt: a checkpoint of another architecture",
                "--embed-dim 16 there, 32 here",
                "--arch moleblend_tiny --layers 2",
            ],
        ),
        "another task": ([qm9, *finetune, f"--save-dir={folder / 'wider'}"], ["checkpoint_last.pt", "heads", "--finetune-from-model"]),
        "pretrained of another width": (
            [qm9, *finetune, "--embed-dim", "32", "--finetune-from-model", source],
            [f"{source}: a checkpoint of another architecture", "--arch moleblend_tiny --layers 2 --embed-dim 16"],
        ),
        "no pretrained": ([qm9, *finetune, "--finetune-from-model", str(folder / "gone.pt")], ["gone.pt: no such checkpoint"]),
        "pretrained with a reset": (
            [qm9, *finetune, "--finetune-from-model", source, "--reset-optimizer"],
            ["--reset-optimizer does not go with --finetune-from-model"],
        ),
        "pretrained with a file to resume": (
            [qm9, *finetune, "--finetune-from-model", source, "--restore-file", source],
            ["--restore-file", "--finetune-from-model", "leave one of them out"],
        ),
        "no checkpoint": ([qm9, *finetune, "--finetune-from-model", str(folder / "text.pt")], ["text.pt: "]),
        "malicious": ([qm9, *finetune, "--finetune-from-model", str(folder / "evil.pt")], ["evil.pt: refused", "run code", "mkdir"]),
        "malicious to resume": ([qm9, *pretrain, f"--save-dir={folder / 'resume_evil'}"], ["checkpoint_last.pt: refused", "mkdir"]),
        "no file to resume": ([qm9, *pretrain, "--restore-file", str(folder / "lost.pt")], ["lost.pt"]),
        "a folder to resume": (
            [qm9, *pretrain, "--restore-file", str(folder / "run")],
            [f"--restore-file {folder / 'run'}: a folder", "run/checkpoint_last.pt"],
        ),
        "no file to continue": ([qm9, *pretrain, "--continue-once", str(folder / "lost.pt")], ["--continue-once", "lost.pt: no such"]),
        "a folder to continue": ([qm9, *pretrain, "--continue-once", str(folder / "run")], ["--continue-once", "run: a folder"]),
        "fp16": ([qm9, *pretrain, "--fp16"], ["--fp16 needs a GPU", "--bf16"]),
        "amp": ([qm9, *pretrain, "--amp"], ["--amp does not go", "--bf16"]),
        "two processes": ([str(folder / "nowhere"), *pretrain, "--distributed-world-size", "2"], ["nowhere: no such store", make]),
    }


AS_PROCESSES = ("another architecture", "malicious", "fp16", "too small a budget", "two processes")
"""While loading, in our mends, in training, and in a child process."""


@pytest.fixture(scope="module")
def results(cases, tmp_path_factory) -> dict[str, Run]:
    """Every case once."""
    folder = tmp_path_factory.mktemp("runs")

    def one(name: str) -> Run:
        store, *options = cases[name][0]
        limit = [] if "--batch-size=" in options else ["--batch-size", "16"]
        words = [*ADAM, "--max-update", "1", *limit, *(word for word in options if word != "--batch-size=")]
        run = train_command if name == "no store" else train_forked if name in AS_PROCESSES else train
        return run(store, folder / name.replace(" ", "_"), *words)

    return {name: one(name) for name in cases}


def test_every_mistake_is_told(cases, results):
    wrong = {}
    for name, (_, parts) in cases.items():
        run = results[name]
        said = [line for line in run.output.splitlines() if line.startswith("moleblend: error: ")]
        problems = [f"exit code {run.code}"] if run.code != 2 else []
        problems += ["a traceback"] if "Traceback" in run.output else []
        problems += [f"lacks {part!r}" for part in parts if not any(part in line for line in said)]
        if problems:
            wrong[name] = (problems, said or run.output[-1500:])
    assert not wrong, "\n\n".join(f"{name}: {problems}\n{said}" for name, (problems, said) in wrong.items())


def test_nothing_malicious_was_run(cases, results):
    source = cases["malicious"][0][-1]
    trap = Path(source).parent / "trap"
    assert not trap.exists()
    torch.load(source, weights_only=False)
    assert trap.exists(), "the trap would not have sprung anyway"


def test_an_exit_code_that_is_none_is_told_before_anything_is_trained(qm9_store, tmp_path, monkeypatch):
    """It was read once the run was stopped and saved."""
    monkeypatch.setenv("MOLEBLEND_PREEMPTED_EXIT", "requeue")
    run = train(qm9_store.path, tmp_path / "run", *PRETRAIN, *SMALL, *ADAM, "--batch-size", "16", "--max-update", "1")
    assert run.code == 2
    assert "MOLEBLEND_PREEMPTED_EXIT must be an exit code, 0 to 255, got 'requeue'" in run.output
    assert not (tmp_path / "run").exists()
