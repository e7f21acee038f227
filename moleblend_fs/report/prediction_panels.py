"""The parts of a report that are about predictions: tables of targets, curves, calibration, residuals, the worst molecules."""

from collections.abc import Iterable, Sequence

import numpy as np

from moleblend_fs.report import html
from moleblend_fs.report.html import short_hash
from moleblend_fs.report.result_files import Evaluation
from moleblend_fs.report.results import METRIC_TITLES, SINGLE_TARGETS, intervals, shown_number, shown_range, uninformed
from moleblend_fs.report.statistics import is_classes, precision_recall, reliability, roc_curve
from moleblend_fs.wording import counted

MOST_RUNS, MOST_TARGETS, MOST_PANELS = 8, 12, 36
"""Runs in one panel, targets that are drawn, panels of a section; tables hold all."""
WORST, RUNS_OF_WORST = 10, 3
TITLES = METRIC_TITLES | {"r2": "R\u00b2"}


class Column:
    """One target of one evaluation, where both a label and a prediction are known.

    Attributes:
        true, predicted: (n,). classes: whether labels are classes. titles: (n,) what to say of each molecule.
        places: (n,) positions in the evaluation.
    """

    def __init__(self, evaluation: Evaluation, target: str):
        self.evaluation, self.target = evaluation, target
        position = list(evaluation.metrics).index(target)
        true, predicted = (part[:, position] for part in (evaluation.target, evaluation.prediction))
        self.places = np.flatnonzero(np.isfinite(true) & np.isfinite(predicted))
        self.true, self.predicted = true[self.places], predicted[self.places]
        kinds = evaluation.metrics[target]
        self.classes = not {"mae", "rmse"} & set(kinds) and bool(kinds) and is_classes(self.predicted, self.true)
        self.unit = evaluation.units.get(target, "")

    @property
    def both_classes(self) -> bool:
        """Whether curves of ranks are defined."""
        return self.classes and len(np.unique(self.true)) == 2

    @property
    def titles(self) -> list[str]:
        """The molecule's SMILES, row and values."""
        return [f"{self.molecule(i)}: true {self.true[i]:.5g}, predicted {self.predicted[i]:.5g}" for i in range(len(self.places))]

    def molecule(self, i: int) -> str:
        """SMILES and row of a molecule, in one line."""
        place = int(self.places[i])
        smiles = self.evaluation.smiles[place] if place < len(self.evaluation.smiles) else ""
        row = self.evaluation.rows[place] if place < len(self.evaluation.rows) else str(place)
        return f"{smiles[:200] or 'molecule'} (row {row})"

    @property
    def molecules(self) -> int:
        """How many there are: each is once among them, however often it was tested."""
        return len({self.key(i) for i in range(len(self.places))})

    def key(self, i: int) -> str:
        """What tells a molecule from others: its row, or where that is not told its position."""
        place = int(self.places[i])
        return (self.evaluation.rows[place] if place < len(self.evaluation.rows) else "") or f"at {place}"

    def worst(self) -> list[int]:
        """The `WORST` molecules with the largest losses, each where it is worst."""
        losses, found = self.losses(), dict[str, int]()
        for i in np.argsort(-losses, kind="stable").tolist():
            if len(found) == WORST or not losses[i] > 0:
                break
            found.setdefault(self.key(i), i)
        return list(found.values())

    def losses(self) -> np.ndarray:
        """(n,) how wrong each prediction is: |error|, or -log of the probability of the true class."""
        if not self.classes:
            return np.abs(self.predicted - self.true)
        return -np.log(np.clip(np.where(self.true > 0.5, self.predicted, 1 - self.predicted), 1e-12, 1))


def columns(evaluations: Iterable[Evaluation]) -> dict[str, list[Column]]:
    """Target -> its columns of all evaluations."""
    found: dict[str, list[Column]] = {}
    for evaluation in evaluations:
        if evaluation.target.ndim == 2 and len(evaluation.target):
            for target in evaluation.metrics:
                found.setdefault(target, []).append(Column(evaluation, target))
    return found


def runs_table(evaluations: Sequence[Evaluation], made_by: Sequence[str]) -> str:
    """What was scored: how many molecules of which split, and of which model; `made_by`: how each one's split was made."""
    rows = []
    for e, how in zip(evaluations, made_by, strict=True):
        digest = e.about.get("split_sha256", "")
        about = [e.about.get(name, "") for name in ("inputs", "updates", "checkpoint")]
        rows.append([e.name, e.split, f"{len(e.target):,}", how, short_hash(digest), *about])
    header = ["run", "split", "molecules", "split made by", "hash of its rows", "inputs", "updates", "checkpoint"]
    kept = [i for i in range(len(header)) if any(row[i] for row in rows)]
    return html.table([header[i] for i in kept], [[row[i] for i in kept] for row in rows], numeric=[kept.index(2)], name="what was scored")


def target_tables(evaluations: Sequence[Evaluation], seed: int) -> list[str]:
    """Of runs with many targets, a table with a row for each target."""
    parts = []
    for evaluation in evaluations:
        names = [m for m in TITLES if any(scores.get(m) is not None for scores in evaluation.metrics.values())]
        if len(evaluation.metrics) <= SINGLE_TARGETS or not names:
            continue
        found, rows = intervals(evaluation, seed), []
        for column in (Column(evaluation, target) for target in evaluation.metrics):
            row = [column.target, f"{len(column.places):,}", f"{int(column.true.sum()):,}" if column.classes else column.unit]
            for metric in names:
                value = evaluation.metrics[column.target].get(metric)
                bounds = shown_range(found.get((column.target, metric)))
                row.append("-" if value is None else shown_number(value) + bounds)
            known = uninformed(evaluation, column.target, names[0])
            rows.append([*row, "-" if known is None else shown_number(known)])
        header = ["target", "molecules", "of class 1 / unit", *(TITLES[name] for name in names), f"{TITLES[names[0]]}, knowing nothing"]
        parts.append(f"<h3>{html.escape(evaluation.name)}, {html.escape(evaluation.split)}</h3>")
        parts.append(html.table(header, rows, numeric=[1, *range(3, len(header))], name=f"scores of each target of {evaluation.name}"))
    return [html.section("Targets", html.note("In brackets 95 % intervals."), *parts)] if parts else []


def picture_sections(evaluations: Sequence[Evaluation]) -> list[str]:
    """Parity and residuals of values; ROC, precision-recall and calibration of classes."""
    parity, residuals, classes = [], [], []
    groups = list(columns(evaluations).items())
    for target, members in groups[:MOST_TARGETS]:
        parity += parity_panels(target, [c for c in members if not c.classes and len(c.true)])
        residuals += [residual_panel(c) for c in members if not c.classes and len(c.true)]
        classes += class_panels(target, [c for c in members if c.both_classes])
    more = [html.note(f"The first {MOST_TARGETS} of {len(groups)} targets.")] if len(groups) > MOST_TARGETS else []
    sections = []
    for title, told, panels in (
        ("Parity", "Predicted over true values. Rest the mouse on a point to see its molecule.", parity),
        ("Residuals", "Predicted minus true over predicted values: what is systematic shows as a slope or a funnel.", residuals),
        ("ROC, precision and calibration", "Calibration: share of class 1 among molecules of like predicted probability.", classes),
    ):
        if panels:
            cut = [html.note(f"{MOST_PANELS} of {len(panels)} panels.")] if len(panels) > MOST_PANELS else []
            sections.append(html.section(title, html.note(told), *more, *cut, html.charts(panels[:MOST_PANELS])))
    return sections


def parity_panels(target: str, members: Sequence[Column]) -> list[str]:
    """One panel for each evaluation, on common axes."""
    from moleblend_fs.report.svg_charts import limits, scatter

    if not members:
        return []
    within = limits(*(values for c in members for values in (c.true, c.predicted)))
    return [
        html.figure(scatter(c.true, c.predicted, target, c.unit, titles=c.titles, within=within), f"{c.evaluation.name}: {target}", told(c))
        for c in members
    ]


def told(column: Column) -> str:
    """A caption: how many molecules, and predictions where several tests have them."""
    several = f", {counted(len(column.true), 'prediction')}" if column.molecules < len(column.true) else ""
    return html.escape(f"{column.evaluation.split}, {counted(column.molecules, 'molecule')}{several}")


def residual_panel(column: Column) -> str:
    """The picture, with mean and spread."""
    from moleblend_fs.report.svg_charts import scatter

    error = column.predicted - column.true
    unit = f" {column.unit}" if column.unit else ""
    caption = f"mean {shown_number(float(error.mean()))}, standard deviation {shown_number(float(error.std()))}{unit}"
    picture = scatter(column.true, column.predicted, column.target, column.unit, titles=column.titles, residuals=True)
    return html.figure(picture, f"{column.evaluation.name}: {column.target}", html.escape(caption))


def class_panels(target: str, members: Sequence[Column]) -> list[str]:
    """Three panels of one target, with a line for each of the first `MOST_RUNS` runs."""
    from moleblend_fs.report.svg_charts import lines

    if not members:
        return []
    more = f"the first {MOST_RUNS} of {len(members)} runs" if len(members) > MOST_RUNS else ""
    members = members[:MOST_RUNS]
    names = [column.evaluation.name for column in members]
    key = html.legend((name, f"var(--c{i % MOST_RUNS})") for i, name in enumerate(names)) if len(names) > 1 else html.escape(names[0])
    key += more
    roc = lines(
        [roc_curve(c.predicted, c.true) for c in members],
        xlabel="false positive rate",
        ylabel="true positive rate",
        name=f"ROC curve of {target}: {', '.join(names)}",
        diagonal=True,
    )
    precision = lines(
        [precision_recall(c.predicted, c.true) for c in members],
        xlabel="recall",
        ylabel="precision",
        name=f"precision over recall of {target}: {', '.join(names)}",
        step=True,
    )
    bins = [reliability(c.predicted, c.true) for c in members]
    calibration = lines(
        [(np.array([p for p, _, _ in rows]), np.array([share for _, share, _ in rows])) for rows in bins],
        xlabel="predicted probability",
        ylabel="share of class 1",
        name=f"calibration of {target}: {', '.join(names)}",
        diagonal=True,
        marker="o",
    )
    return [
        html.figure(roc, f"{target}: ROC", key),
        html.figure(precision, f"{target}: precision and recall", key),
        html.figure(calibration, f"{target}: calibration", key),
    ]


def worst_sections(evaluations: Sequence[Evaluation]) -> list[str]:
    """The molecules with the largest errors, drawn; errors of different targets are compared by their mean."""
    parts = []
    for evaluation in evaluations[:RUNS_OF_WORST]:
        found: list[tuple[float, Column, int]] = []
        for [column] in columns([evaluation]).values():
            losses = column.losses()
            scale = float(losses.mean()) if len(losses) else 0.0
            found += [(losses[i] / scale, column, i) for i in column.worst()]
        worst = sorted(found, key=lambda entry: -entry[0])[:WORST]
        if worst:
            pictures = "".join(worst_figure(column, i) for _, column, i in worst)
            parts.append(f'<h3>{html.escape(evaluation.name)}</h3><div class="gallery">{pictures}</div>')
    if not parts:
        return []
    more = f" of the first {RUNS_OF_WORST} runs" if len(evaluations) > RUNS_OF_WORST else ""
    note = f"The largest errors{more}, over the mean error of their target: of values |predicted \u2212 true|, of classes the log loss."
    return [html.section("Ten worst molecules", html.note(note), *parts)]


def worst_figure(column: Column, i: int) -> str:
    """One molecule with its values."""
    from moleblend_fs.chem.depict import smiles_svg

    place = int(column.places[i])
    smiles = column.evaluation.smiles[place] if place < len(column.evaluation.smiles) else ""
    picture = smiles_svg(smiles) or '<p class="soft">no picture of it</p>'
    unit = f" {column.unit}" if column.unit else ""
    true = f"{column.true[i]:.0f}" if column.classes else shown_number(column.true[i])
    values = f"{column.target}: true {true}, predicted {shown_number(column.predicted[i])}{unit}"
    return html.figure(picture, caption=f"{html.escape(values)}<br><code>{html.escape(column.molecule(i))}</code>")
