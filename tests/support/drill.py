"""Kill training at random moments, again and again, and count what is lost: `python -m tests.support.drill STORE FOLDER`.

Every second kill -9 is aimed at the time in which a checkpoint is being written. After each kill every checkpoint under its
final name is read in full, and training is started again with the same command until it has reached the last update. Then each
molecule of each epoch must have been seen exactly once. A last line of JSON has the figures, `--save` adds them to
benchmarks/results.csv; the exit code is 1 if any checkpoint was damaged or any molecule skipped or seen twice.
"""

import argparse
import json
import random
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import Row, append_rows, row
from moleblend_fs.checkpoint import read as checkpoint
from moleblend_fs.checkpoint import zero_moments
from moleblend_fs.checkpoint.write import TEMPORARY
from moleblend_fs.data.store import Store
from moleblend_fs.errors import UserError
from moleblend_fs.runtime.molecules_seen import VARIABLE, read, seen_by_epoch
from tests.support import forked_ranks
from tests.support.waiting import until

MODEL = ("--layers", "2", "--embed-dim", "16", "--ffn-dim", "16", "--attention-heads", "2", "--gaussians", "8", "--pair-dim", "4")
PATIENCE = 300.0
"""Seconds after which a start that gives no sign is an error of the drill."""


@dataclass
class Figures:
    """What the drill counts.

    Attributes:
        kills: kill -9 that hit running training; kills_in_save: of these, while a checkpoint was being written.
        updates_lost: finished updates that were not in the checkpoint that was resumed from, per kill.
        damaged: checkpoints under a final name that could not be read in full.
        skipped, repeated: molecules of whole epochs that were not seen, or more than once.
        updates, epochs: that training ran over.
    """

    kills: int = 0
    kills_in_save: int = 0
    updates_lost: list[int] = field(default_factory=list)
    damaged: int = 0
    skipped: int = 0
    repeated: int = 0
    updates: int = 0
    epochs: int = 0

    @property
    def passed(self) -> bool:
        return not (self.damaged or self.skipped or self.repeated)


def words(store: Path, folder: Path, optimizer: list[str], updates: int, workers: int) -> list[str]:
    """fairseq-train's arguments: a tiny model that saves after each update."""
    return [
        *(
            str(store),
            "--user-dir",
            str(Path(__file__).parents[2] / "moleblend_fs"),
            "--task",
            "moleblend",
            "--criterion",
            "blend_then_predict",
        ),
        *("--arch", "moleblend_tiny", *MODEL, "--hidden-3d", "8", "--batch-size", "4", "--update-freq", "2", *optimizer),
        *("--lr", "1e-4", "--clip-norm", "5", "--lr-scheduler", "fixed", "--num-workers", str(workers), "--disable-validation"),
        *("--save-dir", str(folder), "--save-interval-updates", "1", "--keep-interval-updates", "2", "--no-epoch-checkpoints"),
        *("--max-update", str(updates), "--log-format", "json", "--log-interval", "1", "--seed", "1"),
    ]


def updates_saved(folder: Path) -> int:
    """Updates in the checkpoint that a start would resume from."""
    path = folder / "checkpoint_last.pt"
    return int(checkpoint.read_torch_file(path)["optimizer_history"][-1]["num_updates"]) if path.exists() else 0


def count_damaged(folder: Path) -> int:
    """Checkpoints under final names that cannot be read in full."""
    damaged = 0
    for path in sorted(folder.glob("*.pt")):
        try:
            content = checkpoint.read_torch_file(path)
            checkpoint.load(path).build()
            damaged += not all(bool(torch.isfinite(moment).all()) for moment in second_moments(path, content))
        except UserError as error:
            print(f"damaged: {error}", flush=True)
            damaged += 1
    return damaged


def second_moments(path: Path, content: dict[str, Any]) -> list[torch.Tensor]:
    """Of all parameters, read from the checkpoint or from the files that it names."""
    stored = content["last_optimizer_state"]
    if "shards" not in stored:
        return [entry["exp_avg_sq"] for entry in stored["state"].values()]
    shapes = {name: weight.shape for name, weight in content["model"].items()}
    return list(zero_moments.read(str(path), stored, shapes).whole(shapes).moments["exp_avg_sq"].values())


def unfinished(folder: Path) -> bool:
    """Whether a checkpoint is being written, or was when its writer was killed."""
    return any(folder.rglob(f"*{TEMPORARY}"))


def kill_once(ranks: forked_ranks.Ranks, folder: Path, ledger: Path, chance: random.Random, in_save: bool, figures: Figures) -> bool:
    """Kill at a random moment after the first update; False if training had come to its end."""

    def happens_in_time(happens: Callable[[], bool]) -> bool:
        until(lambda: happens() or not ranks.running(), seconds=PATIENCE, said=ranks.output)
        return ranks.running()

    if not happens_in_time(lambda: bool(read(ledger))) or (in_save and not happens_in_time(lambda: unfinished(folder))):
        return False
    ranks.processes[0].join(chance.uniform(0.0, 0.01 if in_save else 1.0))
    if not ranks.running():
        return False
    ranks.kill()
    figures.kills += 1
    figures.kills_in_save += unfinished(folder)
    figures.damaged += count_damaged(folder)
    figures.updates_lost.append(max(read(ledger)) - updates_saved(folder))
    return True


def run(store: Path, folder: Path, optimizer: list[str], *, kills: int, ranks: list[int], updates: int, workers: int, seed: int) -> Figures:
    """The drill.

    Args:
        optimizer: options that choose it.
        ranks: numbers of processes, taken in turn by the starts.
        updates: that training needs; it ends there however many kills are left.
    """
    chance, figures = random.Random(seed), Figures()
    ledgers: list[Path] = []
    while True:
        ledgers.append(folder / "ledgers" / str(len(ledgers)))
        command = words(store, folder, optimizer, updates, workers)
        number = ranks[(len(ledgers) - 1) % len(ranks)]
        started = forked_ranks.start(command, ranks=number, logs=folder / "logs", environment={VARIABLE: str(ledgers[-1])})
        try:
            if figures.kills < kills and kill_once(started, folder, ledgers[-1], chance, figures.kills % 2 == 1, figures):
                print(f"kill {figures.kills} ({number} ranks): at update {updates_saved(folder)}", flush=True)
                continue
            codes = started.wait(PATIENCE)
        finally:
            started.kill()
        if codes != [0] * number:
            raise RuntimeError(f"training ended with {codes}:\n{started.output()[-3000:]}")
        break
    figures.updates = updates_saved(folder)
    seen = seen_by_epoch(ledgers)
    training = Store(store)
    everyone = [int(i) for i in training.source_row[training.split("train")]]
    figures.epochs = len(seen) - 1  # the last one is not whole
    for epoch in sorted(seen)[:-1]:
        figures.skipped += sum(seen[epoch][molecule] == 0 for molecule in everyone)
        figures.repeated += sum(count - 1 for count in seen[epoch].values() if count > 1)
    return figures


def rows(figures: Figures, case: str) -> list[Row]:
    """What docs/reliability.md tells of a drill."""
    counts = {
        "kill -9": figures.kills,
        "of these, with a checkpoint half written": figures.kills_in_save,
        "finished updates lost to them": sum(figures.updates_lost),
        "most finished updates lost to one": max(figures.updates_lost, default=0),
        "checkpoints damaged": figures.damaged,
        "epochs seen whole": figures.epochs,
        "molecules skipped in these": figures.skipped,
        "molecules repeated in these": figures.repeated,
    }
    return [row("drill", case, name, "", [value]) for name, value in counts.items()]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.support.drill", description=__doc__)
    parser.add_argument("store", type=Path, help="a small store of `moleblend preprocess`")
    parser.add_argument("folder", type=Path, help="an empty folder for checkpoints")
    parser.add_argument("--kills", type=int, default=24, help="how many kill -9 (default 24)")
    parser.add_argument("--ranks", type=int, nargs="+", default=[2], help="processes of each start, in turn (default 2)")
    parser.add_argument("--updates", type=int, default=400, help="updates that training runs over (default 400)")
    parser.add_argument("--workers", type=int, default=1, help="loader workers of each process (default 1)")
    parser.add_argument("--seed", type=int, default=1, help="of the random moments (default 1)")
    parser.add_argument("--zero-stage", type=int, default=0, help="1 to 3 for DeepSpeed, 0 for plain Adam (default)")
    parser.add_argument("--save", action="store_true", help="add the figures to benchmarks/results.csv")
    given = parser.parse_args()
    optimizer = ["--optimizer", "deepspeed", "--zero-stage", str(given.zero_stage)] if given.zero_stage else ["--optimizer", "adam"]
    figures = run(
        *(given.store, given.folder, optimizer),
        **{name: getattr(given, name) for name in ("kills", "ranks", "updates", "workers", "seed")},
    )
    print(json.dumps(asdict(figures)))
    if given.save:
        way = f"ZeRO {given.zero_stage}" if given.zero_stage else "Adam"
        append_rows(rows(figures, f"{way}, on {', '.join(map(str, given.ranks))} processes" + " in turn" * (len(given.ranks) > 1)))
    return 0 if figures.passed and figures.kills >= given.kills else 1


if __name__ == "__main__":
    sys.exit(main())
