"""An objective is one file: CONTRIBUTING's steps, followed in a copy of the packages, and trained, resumed and loaded."""

import json

import pytest

from tests.support.package_copy import Copy

OBJECTIVE = '''
"""How many bonds each atom has, from the structure alone."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import nn

from moleblend_fs.model.heads import register_head
from moleblend_fs.model.shown import show_all
from moleblend_fs.objectives.objective import Objective, Prepared, Term
from moleblend_fs.option_fields import option

CLASSES = 8
register_head("bond_count", lambda config: nn.Linear(config.embed_dim, CLASSES))


@dataclass(frozen=True, kw_only=True)
class BondCountConfig:
    bond_count_weight: float = option(1.0, "weight of the loss of bond counts")


class BondCount(Objective):
    name = "bond_count"
    Options = BondCountConfig

    def heads(self):
        return ("bond_count",)

    def terms(self):
        return (Term("bond_count", self.options.bond_count_weight),)

    def prepare(self, batch, layout, *, seed, epoch):
        counts = (layout.atom_molecule >= 0).sum().double().reshape(1)
        return Prepared(batch, layout, counts, show_all(batch, layout, "3d"))

    def loss_sums(self, model, prepared):
        tokens, _ = model.encode(prepared.batch, prepared.parts, prepared.layout)
        logits = model.heads["bond_count"](tokens.index_select(0, prepared.layout.atom_tokens)).float()
        return F.cross_entropy(logits, prepared.batch.degree.long(), reduction="sum").reshape(1)

    def logged(self):
        return {"doubled": lambda read: 2 * read.mean("bond_count")}
'''


TRAIN = """
import os, sys
import moleblend_fs.tasks.register
from fairseq_cli.train import cli_main
from moleblend_fs.checkpoint.read import load

folder, *words = sys.argv[1:]
for updates in ("3", "5"):  # the second goes on; each in a fork, since what both import takes longest
    if not os.fork():
        sys.argv = ["fairseq-train", *words, "--save-dir", folder, "--max-update", updates]
        cli_main()
        sys.exit()
    if os.wait()[1]:
        sys.exit(f"training of {updates} updates failed")
print(load(f"{folder}/checkpoint_last.pt").build().heads["bond_count"].weight.shape)
"""


@pytest.mark.slow
def test_a_new_objective_is_one_file(qm9_store, tmp_path):
    copy = Copy(tmp_path / "code", {"moleblend_fs/objectives/bond_count.py": OBJECTIVE})
    words = ["-c", TRAIN, str(tmp_path / "save"), str(qm9_store.path), "--user-dir", "moleblend_fs", "--task", "moleblend"]
    words += ["--criterion", "pretrain", "--objective", "bond_count", "--bond-count-weight", "3", "--arch", "moleblend_tiny"]
    words += ["--batch-size", "8", "--cpu", "--optimizer", "adam", "--lr", "1e-3", "--num-workers", "0", "--log-interval", "1"]
    words += ["--log-format", "json", "--log-file", str(tmp_path / "log")]
    done = copy.run(*words)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "torch.Size([8, 64])", done.stderr
    lines = [json.loads(line[line.index("{") :]) for line in (tmp_path / "log").read_text().splitlines() if '"bond_count_loss"' in line]
    assert [int(line["num_updates"]) for line in lines if "num_updates" in line] == [1, 2, 3, 4, 5]
    for line in (line for line in lines if "num_updates" in line):
        loss = float(line["bond_count_loss"])
        assert 0.5 < loss < 4  # of 8 classes, log(8) = 2.1 at the start
        assert float(line["loss"]) == loss
        assert float(line["weighted_loss"]) == pytest.approx(3 * loss, rel=1e-6)
        assert float(line["doubled"]) == pytest.approx(2 * loss, rel=1e-6)
