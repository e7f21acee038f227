"""What a pretraining reached by how much it had seen: loss and frozen probes over molecules, as a table and two pictures.

curve.py RUN FOLDER         RUN: OUT of run.sh; FOLDER gets curve.csv, loss.svg and probes.svg
curve.py FOLDER             the pictures again, from FOLDER/curve.csv
"""

import argparse
import csv
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import matplotlib

from moleblend_fs.errors import UserError
from moleblend_fs.files import whole_file, write_atomically
from moleblend_fs.report.html import standalone
from moleblend_fs.report.svg_charts import PALETTE, panel, to_svg
from moleblend_fs.report.training_logs import TrainingLog, read_log

STAGES = ("pretrain", "cooldown")
LOSS = "loss"
LEARNED, HELD_OUT = "loss, trained on", "loss, held out"
QUANTITIES = {"qm9": "QM9, 12 targets from 2D (R2)", "tox21": "Tox21 (ROC-AUC)", "hiv": "HIV (ROC-AUC)"}


class Point(NamedTuple):
    """One value.

    Attributes:
        stage: of the pretraining. updates: since its first stage began. molecules: that were seen in them, again and again.
        quantity: a loss, or what a probe tells.
    """

    stage: str
    updates: int
    molecules: int
    quantity: str
    value: float


def points_of(run: Path) -> list[Point]:
    """All that the logs and the probes of a run hold, in the order of updates.

    Raises:
        UserError: a stage has no log.
    """
    found, before, begin = list[Point](), 0, {}
    for stage in STAGES:
        if not (run / stage).is_dir():
            continue
        log = read_log(run / stage / "train.log", run)
        if log is None or not _losses(log):
            raise UserError(f"{run / stage / 'train.log'}: no loss in it")
        begin[stage] = before
        batch = int(log.settings["dataset.batch_size"])
        losses = _losses(log)
        found += [Point(stage, before + at, (before + at) * batch, *told) for at, *told in losses]
        before += max(at for at, *_ in losses)
    with (run / "probes.csv").open(newline="") as stream:
        rows = [(row["checkpoint"].split("/")[0], row) for row in csv.DictReader(stream)]
    for stage, row in rows:
        at = begin[stage] + int(row["updates"])
        found.append(Point(stage, at, at * batch, QUANTITIES.get(row["store"], f"{row['store']} ({row['score']})"), float(row["value"])))
    return sorted(dict.fromkeys(found), key=lambda point: (point.quantity, point.updates))


def _losses(log: TrainingLog) -> list[tuple[int, str, float]]:
    """(updates, quantity, value) of a log."""
    return [
        (int(update), quantity, float(value))
        for quantity, curves in ((LEARNED, log.train), (HELD_OUT, log.valid))
        for update, value in zip(*curves.get(LOSS, ((), ())), strict=True)
    ]


def write(folder: Path, points: list[Point]) -> None:
    """curve.csv and the pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    with whole_file(folder / "curve.csv") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(Point._fields)
        table.writerows([*point[:-1], f"{point.value:.6g}"] for point in points)
    draw(folder)


def draw(folder: Path) -> None:
    """The pictures of a folder's curve.csv."""
    with (folder / "curve.csv").open(newline="") as stream:
        curves: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for row in csv.DictReader(stream):
            curves[row["quantity"]].append((int(row["molecules"]) / 1e6, float(row["value"])))
    losses = {name: curve for name, curve in curves.items() if name in (LEARNED, HELD_OUT)}
    probes = {name: curve for name, curve in curves.items() if name not in losses}
    write_atomically(folder / "loss.svg", picture(losses, "loss", "Loss of pretraining over molecules seen"))
    write_atomically(folder / "probes.svg", picture(probes, "score of a frozen probe", "Frozen probes over molecules seen"))


def picture(curves: dict[str, list[tuple[float, float]]], ylabel: str, name: str) -> str:
    """Curves over millions of molecules, with what each of them is."""
    same_bytes = matplotlib.rc_context({"svg.hashsalt": "moleblend"})
    with same_bytes, panel(xlabel="molecules seen, millions", ylabel=ylabel) as (figure, axis):
        for (label, curve), colour in zip(curves.items(), PALETTE * len(curves), strict=False):
            axis.plot(
                *zip(*curve, strict=True), color=colour, linewidth=1.3, marker="o" if label != LEARNED else "", markersize=3, label=label
            )
        axis.set_ylim(top=axis.get_ylim()[1] + 0.3 * (axis.get_ylim()[1] - axis.get_ylim()[0]))  # room for the legend
        axis.legend(fontsize=7, frameon=False, loc="upper left")
        return standalone(to_svg(figure, name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", type=Path, metavar="RUN FOLDER")
    given = parser.parse_args().paths
    if len(given) == 1:
        draw(given[0])
    else:
        write(given[1], points_of(given[0]))


if __name__ == "__main__":
    main()
