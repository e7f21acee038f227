"""The pages, from runs.csv and about.json alone: the same rows give the same bytes."""

import json
import re
import shutil
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from conclusions import SIX, first_paragraph, goals
from grid_runs import ROOT
from methods import DATA_SETS, METHODS
from results import RESULTS, Row, comparisons, dataset_name, rows_of

from moleblend_fs.comparison.analysis import Comparison, Overall, overall
from moleblend_fs.comparison.output import number, ranks_over_sets, to_reference, told_of, told_overall, write_pairs
from moleblend_fs.comparison.page import build, picture_of_means, picture_of_ranks, picture_over_sets
from moleblend_fs.errors import UserError
from moleblend_fs.files import write_atomically
from moleblend_fs.report.html import standalone
from moleblend_fs.wording import counted

PAGE, FIGURES = ROOT / "docs" / "evidence.md", ROOT / "docs" / "figures" / "evidence"
SITE, BEFORE = ROOT / "mkdocs.yml", "      - Comparing methods: compare.md\n"
"""Where the page gets its line, and after which."""
HEAD = "<!-- Made by `examples/evidence/run.sh --only publish` from examples/evidence/results/: not to be edited. -->"
PROTOCOL = """* **Cleaned**: rows that are no molecule are left out; rows of one molecule (isomeric SMILES) become one where their labels
  agree (the same classes; values within a tenth of the labels' standard deviation, then their mean), and are all left out where they
  do not. **Original**: all rows that are molecules.
* **Protocol A**: scaffolds with stereochemistry, largest first, as the paper; seeds change the training alone, so that there is no
  interval over splits. **Protocol B**: whole scaffolds at random, again and again, the same splits for all methods. QM9 is split at
  random; its validation and test molecules stay the same, the training molecules are drawn.
* **Tuning**: each method is trained with as many settings as the column `trials` says, its defaults first; the best on the validation
  molecules predicts the test molecules, once. chemprop's table has no test molecules at all.
* **Tests**: paired differences with 95 % intervals that allow for overlapping training molecules; repeated-measures ANOVA with Tukey's
  HSD, or Friedman's test with Conover's and Holm's correction; Cohen's d; a threshold below which a difference does not matter. All of
  it is `moleblend compare`, see [Comparing methods](compare.md)."""
LIMITS = """* Six small public sets, whose labels are pooled from many laboratories; ClinTox's and BBBP's are known to be doubtful, and are
  cleaned of contradictions alone.
* Splits by scaffold are harder than random ones and still kinder than time: a project's next molecules may be further away than any
  test molecule here.
* Intervals are over splits of one set. They say nothing of other sets.
* Few settings were tried, and the same number for methods of a kind: one that gains more from tuning stands worse here than where it
  is tuned for long.
* QM9's labels were probed to choose between pretrainings: its rows show what structures and molecules bring, not what a set that nobody
  looked at would say."""


def write(folder: Path, page: Path, figures: Path) -> None:
    """The page in Markdown with its pictures, and beside runs.csv pairs.csv and the page of `moleblend compare`.

    Args:
        folder: of runs.csv and about.json. figures: folder of SVG files.
    """
    rows, about = rows_of(folder), json.loads((folder / "about.json").read_text())
    compared, told_of_tables = comparisons(folder, rows, about)
    notes = [note.replace(f"{folder}/", "") for note in told_of_tables]
    ranks = overall(six_of_b(compared))
    write_pairs(folder / "pairs.csv", compared)
    pictures = draw(compared, ranks)
    if figures.is_dir():
        for path in figures.glob("*.svg"):
            if path.name not in pictures:
                path.unlink()  # of an earlier page
    for name, picture in pictures.items():
        write_atomically(figures / name, picture)
    write_atomically(page, markdown(rows, about, compared, ranks, notes, _relative(figures, page.parent), set(pictures)))
    told = [*notes, *about["undone"], *(f"{name}: {why}" for name, why in about["left_out"].items())]
    write_atomically(folder / "evidence.html", build(compared, ranks, "", told, f"When pretraining helps, scale {about['scale']}"))


def _relative(figures: Path, base: Path) -> str:
    return figures.relative_to(base).as_posix()


def publish(out: Path) -> list[Path]:
    """The rows of a folder as the committed table, and docs/evidence.md of it.

    Raises:
        UserError: rows of changed files, whose commit says nothing.
    """
    changed = sorted({row["commit"] for row in rows_of(out) if row["commit"].endswith("+") or row["commit"] == "unknown"})
    if changed:
        raise UserError(f"{out}: rows of changed files ({', '.join(changed)}); only rows of a clean commit are shown")
    RESULTS.mkdir(exist_ok=True)
    for name in ("runs.csv", "about.json"):
        shutil.copyfile(out / name, RESULTS / name)
    write(RESULTS, PAGE, FIGURES)
    (RESULTS / "evidence.html").unlink()  # has the time that it was made at
    site = SITE.read_text()
    if " evidence.md\n" not in site:
        write_atomically(SITE, site.replace(BEFORE, f"{BEFORE}      - When pretraining helps, the evidence: evidence.md\n"))
    return [RESULTS / "runs.csv", RESULTS / "pairs.csv", PAGE, FIGURES, SITE]


def six_of_b(compared: Sequence[Comparison]) -> list[Comparison]:
    """Protocol B of the cleaned six sets."""
    names = {dataset_name(name, "cleaned", "B") for name in SIX}
    return [each for each in compared if each.table.dataset in names]


def draw(compared: Sequence[Comparison], ranks: Overall | None) -> dict[str, str]:
    """File name -> picture: of each comparison with intervals, and of all sets."""
    found = {"all-sets.svg": standalone(picture_over_sets(ranks))} if ranks is not None else {}
    for each in compared:
        if each.omnibus is not None:
            if (means := picture_of_means(each)) is not None:
                found[f"{slug(each)}-means.svg"] = standalone(means)
            found[f"{slug(each)}-ranks.svg"] = standalone(picture_of_ranks(each))
    return found


def slug(each: Comparison) -> str:
    """A comparison's name in files."""
    return re.sub(r"[^a-z0-9]+", "-", each.table.dataset.replace(",000", "000").lower())


def markdown(
    rows: Sequence[Row],
    about: dict[str, Any],
    compared: Sequence[Comparison],
    ranks: Overall | None,
    notes: Sequence[str],
    figures: str,
    pictures: set[str],
) -> str:
    """The page as Markdown."""
    of_b = six_of_b(compared)
    parts = [HEAD, "# When pretraining helps: the evidence", first_paragraph(of_b, rows), circumstances(rows, about)]
    parts += ["## What was aimed at", table(["what", "goal", "found", ""], goals(rows, of_b, ranks))]
    if ranks is not None:
        parts += ["## Over all data sets", told_overall(ranks) + ".", image(figures, "all-sets.svg", "mean ranks over data sets")]
        parts += [table(*ranks_over_sets(of_b, ranks))]
    for each in compared:
        header, lines, _ = to_reference(each, "")
        parts += [f"## {each.table.dataset}", " ".join([*told_of(each), *floor(rows, each)]), table(header, lines)]
        parts += [
            image(figures, name, f"{what} of methods on {each.table.dataset}")
            for what in ("means", "ranks")
            if (name := f"{slug(each)}-{what}.svg") in pictures
        ]
    if both := cleaned_and_original(rows):
        parts += ["## Cleaned and original", table(["set", "method", "cleaned", "original"], both)]
    parts += ["## What it costs", costs(rows), "## Data", cleaning(about), "## How it was done", PROTOCOL]
    parts += ["## What the weights have seen", contamination(about), "## Limits", LIMITS]
    told = [*notes, *about["undone"], *(f"{name}: {why}" for name, why in about["left_out"].items())]
    parts += ["## Left out", "\n".join(f"* {note}" for note in told)] if told else []
    return "\n\n".join(parts) + "\n"


def floor(rows: Sequence[Row], each: Comparison) -> list[str]:
    """What saying always the same gives there."""
    title = METHODS["constant"].title
    values = [float(row["value"]) for row in rows if row["method"] == title and row["dataset"] == each.table.dataset]
    return [f"The {title} of the training molecules, which takes no part in tests: {statistics.fmean(values):.4g}."] if values else []


def circumstances(rows: Sequence[Row], about: dict[str, Any]) -> str:
    """How many runs of what code, and how busy the machine was."""
    busy = statistics.median(float(row["others_busy"]) for row in rows)
    commits = ", ".join(dict.fromkeys(row["commit"] for row in rows))
    tried = f"{about['trials']} settings of each method of scikit-learn, {about['network_trials']} of each network"
    return (
        f"{counted(len(rows), 'run')}, scale `{about['scale']}`: {tried}. Every run is a line of `runs.csv`, with its settings, its commit "
        f"and the hashes of its split, data and weights. Commits: {commits}. Meanwhile other programs kept {busy:.1f} cores busy (median "
        "over runs), so that times are those of the processor."
    )


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """In Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def image(folder: str, name: str, what: str) -> str:
    """A picture in Markdown."""
    return f"![{what}]({folder}/{name})"


def cleaned_and_original(rows: Sequence[Row]) -> list[list[str]]:
    """Mean scores on both versions of a set, of the methods that have both; a line for each protocol, set and method."""
    values: dict[tuple[str, str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        values[row["protocol"], row["data"], row["method"]][row["version"]].append(float(row["value"]))
    return [
        [
            f"{DATA_SETS[data].title}, protocol {protocol}",
            method,
            *(f"{statistics.fmean(of[name]):.4g}" for name in ("cleaned", "original")),
        ]
        for (protocol, data, method), of in values.items()
        if len(of) == 2
    ]


def costs(rows: Sequence[Row]) -> str:
    """Medians over runs; times are of the processor, which a busy machine disturbs less."""
    of_method: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        of_method[row["method"]].append(row)

    def middle(here: Sequence[Row], name: str) -> str:
        values = [float(row[name]) for row in here if row[name]]
        return number(statistics.median(values), 3) if values else "-"

    names = ("cpu_seconds", "molecules_per_second", "memory_mb", "install_mb")
    lines = [
        [method, str(len(here)), *(middle(here, name) for name in names), ", ".join(dict.fromkeys(row["software"] for row in here))]
        for method, here in of_method.items()
    ]
    header = [
        "method",
        "runs",
        "CPU s of a run with its trials",
        "molecules/s, features not counted",
        "memory, MB",
        "installed, MB",
        "with",
    ]
    told = "Medians over all sets and runs. Sizes of installations are those of `python -m benchmarks peers`."
    return f"{told}\n\n{table(header, lines)}"


def cleaning(about: dict[str, Any]) -> str:
    """What became of each file's rows."""
    names = ("unlabelled", "merged", "conflicting", "kept")
    lines = [
        [
            DATA_SETS[name].title,
            str(found["rows"]),
            str(found["sampled"]),
            str(len(found["invalid"])),
            *(str(found[each]) for each in names),
        ]
        for name, found in about["cleaning"].items()
    ]
    header = ["set", "rows", "not sampled", "invalid", "without labels", "merged duplicates", "of conflicting duplicates", "kept"]
    return table(header, lines)


def contamination(about: dict[str, Any]) -> str:
    """What the weights' cards say of their corpus."""
    if not about["weights"]:
        return "Nothing here starts from weights."
    return "\n".join(f"* `{name}` (SHA-256 {card['sha256'][:12]}): {seen_by(card)}" for name, card in about["weights"].items())


def seen_by(card: dict[str, Any]) -> str:
    """What a card says of the corpus: its parts, and the sets whose molecules are in none of them."""
    if not card.get("stores"):
        return "without a card, so that nothing is known of what it has seen."
    parts = [
        f"{counted(store['molecules'], 'molecule')} of {', '.join(store['inputs']) or store['source']} "
        f"({store['left_out'].get('excluded', 0):,} left out)"
        for store in card["stores"]
    ]
    everywhere = set.intersection(*(set(store["exclude"]) for store in card["stores"]))
    kept_out = (
        f"Left out of all of these were molecules whose skeleton (the first part of the InChIKey) is in {', '.join(sorted(everywhere))}."
        if everywhere
        else "**No set's molecules were left out of all of these**: what is tested here may have been seen."
    )
    last = f", the last {counted(card['updates'], 'update')}" if card.get("stages") else f", {counted(card['updates'], 'update')}"
    return f"{', '.join(card['objectives'])}{last}, on {'; '.join(parts)}. {' '.join([*card.get('notes', ()), kept_out])}"
