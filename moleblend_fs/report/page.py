"""The report on a folder of runs: results, curves, what predictions are like, what stores say of repeats, and one blended molecule."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from moleblend_fs import __version__
from moleblend_fs.data.manifest import Manifest
from moleblend_fs.data.store import MANIFEST, Store
from moleblend_fs.errors import UserError
from moleblend_fs.objectives.objective import Objective
from moleblend_fs.report import html
from moleblend_fs.report.prediction_panels import picture_sections, runs_table, target_tables, worst_sections
from moleblend_fs.report.result_files import Evaluation
from moleblend_fs.report.results import BASELINE, METRIC_TITLES, METRICS, OF_UNIT, result_rows
from moleblend_fs.report.runs import Runs
from moleblend_fs.report.settings import pictured_objective, shown_settings
from moleblend_fs.report.training_logs import TrainingLog


def build(runs: Runs, *, title: str, molecule: int | None, store: Store | None, seed: int) -> str:
    """The whole page as HTML.

    Args:
        runs: what was found.
        title: of the page.
        molecule: index in the store of the molecule to draw; chosen by the seed if None.
        store: where that molecule is; no picture if None.
        seed: of the choice, of the blend, and of the bootstrap.
    """
    from moleblend_fs.objectives.registry import curves

    manifests = read_manifests(runs)
    body = results_sections(runs, manifests, seed)
    pretraining = [log for log in runs.logs if set(curves()) & {*log.train, *log.valid}]
    body += pretraining_section(pretraining)
    body += finetuning_section([log for log in runs.logs if all(log is not other for other in pretraining)], runs.evaluations)
    body += picture_sections(runs.evaluations) + worst_sections(runs.evaluations)
    header, rows = shown_settings([(log.name, log.settings) for log in runs.logs])
    if rows:
        body.append(html.section("Settings", html.table(header, rows, name="settings of each run")))
    body += repeats_section(manifests)
    if store is not None and (pictured := pictured_run(runs)) is not None:
        body += molecule_section(runs, store, *pictured, molecule, seed)
    if runs.notes:
        body.append(html.section("Not read", *(html.note(note) for note in runs.notes)))
    made = f"{datetime.now():%Y-%m-%d %H:%M}, moleblend_fs {__version__}"
    return html.page(title, f"<code>{html.escape(runs.folder)}</code> &nbsp; {made}", body)


def pictured_run(runs: Runs) -> tuple[TrainingLog, Objective] | None:
    """The first pretraining run whose objective shows other relations of each pair, and that objective, as its log tells."""
    for log in runs.logs:
        try:
            if (objective := pictured_objective(log.settings)) is not None:
                return log, objective
        except UserError as error:
            runs.notes.append(f"{log.name}: {error}")
    return None


def molecule_section(runs: Runs, store: Store, log: TrainingLog, objective: Objective, molecule: int | None, seed: int) -> list[str]:
    """A molecule as the pretraining run sees it; a note where none of the store can be drawn and none was asked for."""
    from moleblend_fs.report.blend import blended_molecule, choose_molecule

    try:
        index = choose_molecule(store, seed) if molecule is None else molecule
        picture = blended_molecule(store, index, objective, seed=seed)
    except UserError as error:
        if molecule is not None:
            raise
        runs.notes.append(f"no picture of a molecule: {error}")
        return []
    told = html.note(f"As pretraining of {log.name} shows it.")
    return [html.section("One molecule as the model sees it", told, picture)]


def read_manifests(runs: Runs) -> dict[Path, Manifest]:
    """Manifest of each store; damaged ones are noted."""
    found = {}
    for path in runs.stores:
        try:
            found[path] = Manifest.load(path / MANIFEST)
        except UserError as error:
            if not any(str(error) in note for note in runs.notes):
                runs.notes.append(str(error))
    return found


def results_sections(runs: Runs, manifests: dict[Path, Manifest], seed: int) -> list[str]:
    """Scores with intervals beside those of knowing nothing; what was scored; tables of many targets."""
    if not runs.evaluations:
        return []
    header, rows = result_rows(runs.evaluations, seed)
    told = [f"In brackets 95 % intervals by bootstrap over the molecules scored (percentiles, seed {seed})."]
    if BASELINE in header:
        told.append("The mean predictor always says the mean of the training split; of classes, the same probability for all molecules.")
    if any("\u00b1" in cell for row in rows for cell in row):
        told.append("After \u00b1 the standard deviation over seeds (population).")
    made_by = [split_made_by(evaluation, manifests.get(Path(evaluation.store))) for evaluation in runs.evaluations]
    table = html.table(header, rows, numeric=range(header.index("metric") + 1, len(header)), name="scores of all runs")
    return [
        html.section("Results", html.note(" ".join(told)), table, "<h3>What was scored</h3>", runs_table(runs.evaluations, made_by)),
        *target_tables(runs.evaluations, seed),
    ]


def split_made_by(evaluation: Evaluation, manifest: Manifest | None) -> str:
    """How a split was made, as the store says it; "" where the store is gone."""
    if manifest is None:
        return ""
    scored, own = evaluation.about.get("split_sha256"), manifest.splits.get(evaluation.split)
    if scored and (own is None or own.sha256 != scored):
        return "not the store's own: --split-file, or the store was made anew"
    split = manifest.split
    return ", ".join(str(split[name]) if name == "kind" else f"{name} {split[name]}" for name in ("kind", "seed") if name in split)


def repeats_section(manifests: dict[Path, Manifest]) -> list[str]:
    """What stores say of molecules that are there more than once, above all in two splits: scores of these are too good."""
    if not manifests:
        return []
    rows = []
    for path, manifest in manifests.items():
        repeats = manifest.duplicates
        shared = ", ".join(f"{count:,} of {pair}" for pair, count in repeats.shared.items()) or "none"
        rows.append([path.name, manifest.split.get("kind", ""), shared, f"{repeats.molecules:,}", f"{manifest.failures:,}"])
    header = ["store", "split made by", "molecules of one split in another", "molecules repeated", "rows that gave no molecule"]
    told = html.note(
        "As found when the stores were made, by canonical SMILES. A molecule in two splits makes scores look better than they are."
    )
    return [html.section("Leakage between splits", told, html.table(header, rows, numeric=(3, 4), name="repeated molecules of each store"))]


def pretraining_section(logs: Sequence[TrainingLog]) -> list[str]:
    """Curves of all losses, and bounds on information."""
    from moleblend_fs.report.svg_charts import loss_curves

    if not logs:
        return []
    told = html.note(
        "The losses of the objectives, each unweighted: lines for training, dots for validation, dashed: knowing nothing of the input."
    )
    panels = [html.figure(picture, title) for title, picture in loss_curves(logs)]
    return [html.section("Pretraining", told, run_legend([log.name for log in logs]), html.charts(panels), *information(logs))]


def run_legend(names: Sequence[str]) -> str:
    """Runs in the colours of their curves."""
    return html.legend((name, f"var(--c{i % 8})") for i, name in enumerate(names))


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
    told = html.note("H(target) - cross-entropy: a lower bound on what the input tells of the target.")
    return [told + html.table(("run", "about", "at least (nats)", "at update"), rows, numeric=(2, 3), name="bounds on information")]


def finetuning_section(logs: Sequence[TrainingLog], evaluations: Sequence[Evaluation]) -> list[str]:
    """Validation curves of each run's first metric, those of one metric in one panel, and of losses."""
    from moleblend_fs.report.svg_charts import metric_curves

    units = {unit for e in evaluations for unit in e.units.values()}
    unit = units.pop() if len(units) == 1 else ""
    names = [log.name for log in logs]
    panels = []
    scores = dict.fromkeys(metric for log in logs for metric in [m for m in METRICS if m in log.valid][:1])
    for metric, split in (*((score, "valid") for score in scores), ("loss", "valid"), ("loss", "train")):
        # Every run keeps its place, and with it its colour, in all panels.
        curves = [(log.name, curve) if (curve := getattr(log, split).get(metric)) is not None else None for log in logs]
        if not any(curves):
            continue
        name = METRIC_TITLES.get(metric, metric)
        title = f"{name}, {'validation' if split == 'valid' else 'training'}"
        panels.append(
            html.figure(metric_curves(curves, title=title, unit=f"{name} ({unit})" if unit and metric in OF_UNIT else name), title)
        )
    return [html.section("Finetuning", run_legend(names), html.charts(panels))] if panels else []
