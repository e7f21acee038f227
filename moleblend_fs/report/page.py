"""The report on a folder of runs: results, curves, parity, and one blended molecule."""

from collections.abc import Sequence
from datetime import datetime

from moleblend_fs import __version__
from moleblend_fs.data.store import Store
from moleblend_fs.report import html
from moleblend_fs.report.results import BASELINE, METRIC_TITLES, METRICS, OF_UNIT, SINGLE_TARGETS, result_rows
from moleblend_fs.report.runs import Evaluation, Runs, TrainingLog

PARITY_PANELS = 12
"""Panels of a parity plot; more runs are left to the table."""


def build(runs: Runs, *, title: str, molecule: int | None, store: Store | None, seed: int) -> str:
    """The whole page as HTML.

    Args:
        runs: what was found.
        title: of the page.
        molecule: index in the store of the molecule to draw; chosen by the seed if None.
        store: where that molecule is; no picture if None.
        seed: of the choice and of the blend.
    """
    from moleblend_fs.objectives.registry import curves
    from moleblend_fs.report.charts import loss_curves

    body = []
    if runs.evaluations:
        header, rows = result_rows(runs.evaluations)
        note = '<p class="soft">The mean predictor always says the mean of the training split.</p>' if BASELINE in header else ""
        body.append(html.section("Results", note, html.table(header, rows, numeric=range(header.index("metric") + 1, len(header)))))
    losses = set(curves())
    pretraining = [log for log in runs.logs if losses & {*log.train, *log.valid}]
    if pretraining:
        note = '<p class="soft">The losses of the objectives, each unweighted.</p>'
        body.append(html.section("Pretraining", note, loss_curves(pretraining), *information(pretraining)))
    if finetuning := [log for log in runs.logs if not losses & {*log.train, *log.valid}]:
        body += finetuning_section(finetuning, runs.evaluations)
    if runs.evaluations:
        body += parity_sections(runs.evaluations)
    if store is not None:
        from moleblend_fs.report.blend import blended_molecule, choose_molecule

        index = choose_molecule(store, seed) if molecule is None else molecule
        body.append(html.section("One molecule as the model sees it", blended_molecule(store, index, seed=seed)))
    if runs.notes:
        body.append(html.section("Not read", *(f'<p class="soft">{html.escape(note)}</p>' for note in runs.notes)))
    made = f"{datetime.now():%Y-%m-%d %H:%M}, moleblend_fs {__version__}"
    return html.page(title, f"<code>{html.escape(runs.folder)}</code> &nbsp; {made}", body)


def information(logs: Sequence[TrainingLog]) -> list[str]:
    """The last measured bounds on the information about hidden classes in what the model is shown, as a table."""
    from moleblend_fs.objectives.registry import curves

    rows = []
    known = {curve.information: curve.about for curve in curves().values() if curve.information}
    for log in logs:
        for name, what in known.items():
            curve = log.valid.get(name) or log.train.get(name)
            if curve is not None:
                rows.append((log.name, what, f"{curve[1][-1]:.3f}", f"{curve[0][-1]:,}"))
    if not rows:
        return []
    note = '<p class="soft">H(target) - cross-entropy: a lower bound on what the input tells of the target.</p>'
    return [note + html.table(("run", "about", "at least (nats)", "at update"), rows, numeric=(2, 3))]


def finetuning_section(logs: Sequence[TrainingLog], evaluations: Sequence[Evaluation]) -> list[str]:
    """Validation curves of one quantity for all finetuning runs: the first metric that they have."""
    from moleblend_fs.report.charts import metric_curves

    units = {unit for e in evaluations for unit in e.units.values()}
    unit = units.pop() if len(units) == 1 else ""
    sections: list[str] = []
    for metric in (*METRICS, "loss"):
        curves = [(log.name, log.valid[metric]) for log in logs if metric in log.valid]
        if curves and not sections:
            name = METRIC_TITLES.get(metric, metric)
            title = f"{name} on the validation split"
            shown = f"{name} ({unit})" if unit and metric in OF_UNIT else name
            sections.append(html.section("Finetuning", metric_curves(curves, title=title, unit=shown)))
    return sections


def parity_sections(evaluations: Sequence[Evaluation]) -> list[str]:
    """Parity plots of regression targets, one row of panels for each target."""
    from moleblend_fs.report.charts import parity

    groups: dict[str, list[tuple[Evaluation, int]]] = {}
    for evaluation in evaluations:
        for position, target in enumerate(list(evaluation.metrics)[:SINGLE_TARGETS]):
            if "mae" in evaluation.metrics[target] and position < evaluation.target.shape[-1]:
                groups.setdefault(target, []).append((evaluation, position))
    pictures = []
    for target, members in groups.items():
        same = [member for member in members if member[1] == members[0][1]]
        pictures.append(parity([e for e, _ in same][:PARITY_PANELS], target, same[0][1]))
    return [html.section("Parity", *pictures)] if pictures else []
