"""`moleblend inspect`: what is inside a store, as text and, where asked for, as an HTML page with pictures; or what weights are."""

import argparse
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from moleblend_fs.cli.common import check_output, text_beside
from moleblend_fs.cli.inspect_weights import are_weights, run_weights
from moleblend_fs.cli.summary import accounts
from moleblend_fs.data.graph import MolecularGraph
from moleblend_fs.data.record import decode
from moleblend_fs.data.store import Store
from moleblend_fs.data.verification import problems
from moleblend_fs.errors import UserError
from moleblend_fs.files import write_atomically
from moleblend_fs.report import html
from moleblend_fs.report.html import short_hash
from moleblend_fs.shared_options import seed
from moleblend_fs.wording import counted

SHOWN = 4
"""Molecules, by default."""
REASONS_SHOWN = 8
LONGEST_REASON = 160
MOST_NAMES = 4
"""Parts of an option that are listed."""
SAMPLED_RECORDS = 2000
"""Records read to tell the mean size of one."""
BINS = 40
LABEL_HEADER = ("label", "unit", "kind", "split", "present", "mean", "std", "min", "max")
SPLIT_HEADER = ("split", "molecules", "SHA-256 of its source rows")
Row = tuple[object, ...]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "store", metavar="STORE", help="folder made by `moleblend preprocess`; or weights: a checkpoint, or a name as --weights takes it"
    )
    parser.add_argument("--molecules", metavar="K", type=int, help=f"how many molecules to show, drawn at random (default: {SHOWN})")
    parser.add_argument("--seed", type=seed, default=0, help="which molecules are drawn (default: 0)")
    parser.add_argument("--html", metavar="FILE", type=Path, help="also write a page with pictures of the molecules")
    parser.add_argument("--verify", action="store_true", help="read everything, and compare records, splits, sizes and rows")


def run(args: argparse.Namespace) -> int:
    """Print, draw and check; 1 where --verify finds other bytes than those once written."""
    check_output(args.html, args.store)
    with text_beside(args.html):
        return run_weights(args) if are_weights(args.store) else run_store(args)


def run_store(args: argparse.Namespace) -> int:
    """The same of a store."""
    store, molecules = Store(args.store), SHOWN if args.molecules is None else args.molecules
    if molecules < 0:
        raise UserError(f"--molecules must not be negative, got {molecules}")
    shown = draw_molecules(store, molecules, args.seed)
    print_text(store, shown)
    if args.html is not None:
        write_atomically(args.html, as_html(store, shown))
        print(f"\nwritten: {args.html}")
    return verify(store) if args.verify else 0


def draw_molecules(store: Store, count: int, seed: int) -> list[tuple[int, MolecularGraph]]:
    """(molecule index, graph) of up to `count` molecules, uniformly at random, in store order."""
    generator = np.random.Generator(np.random.PCG64(seed))
    indices = np.sort(generator.choice(len(store), size=min(count, len(store)), replace=False))
    return [(int(index), decode(record)[1]) for index, record in zip(indices, store.records(indices), strict=True)]


def overview(store: Store) -> list[Row]:
    """(name, value) of what holds for the whole store."""
    manifest = store.manifest
    atoms = store.num_atoms
    spread = np.linspace(0, len(store) - 1, min(SAMPLED_RECORDS, len(store))).astype(np.int64)
    record_bytes = np.mean([len(record) for record in store.records(spread)])
    low, most, high = np.percentile(atoms, [0, 99, 100], method="inverted_cdf").astype(int)
    return [
        ("source", manifest.source),
        ("options", as_option(manifest.options) or "none"),
        ("inputs", ", ".join(f"{name} ({short_hash(digest)})" for name, digest in manifest.inputs.items()) or "none"),
        ("made with", ", ".join(f"{name} {version}" for name, version in manifest.versions.items()) or "unknown"),
        ("molecules", f"{manifest.molecules:,}"),
        ("failures", f"{manifest.failures:,}"),
        ("with 3D", f"{counted(manifest.molecules_with_3d, 'molecule')}, {counted(manifest.conformers, 'conformer')}"),
        ("atoms", f"{low} to {high}, median {np.median(atoms):g}, mean {atoms.mean():.2f}, 99 % have at most {most}"),
        ("bytes per molecule", f"{manifest.records_bytes / len(store):,.0f} in the file, {record_bytes:,.0f} in the record alone"),
        ("file", f"{manifest.records_bytes / 1e6:,.2f} MB"),
        ("split made by", as_option(manifest.split)),
        *accounts(manifest),
    ]


def as_option(value: object) -> str:
    """Options as people write them: names before values, shares with four digits, yes and no."""
    if isinstance(value, Mapping):
        if "name" in value and "kind" in value:  # a label, which stands in a table of its own
            return str(value["name"])
        return ", ".join(f"{str(name).replace('_', ' ')} {as_option(part)}" for name, part in value.items())
    if isinstance(value, list | tuple):
        if len(value) > MOST_NAMES:
            return f"{as_option(value[:MOST_NAMES])} and {len(value) - MOST_NAMES} more"
        numbers = [part for part in value if isinstance(part, float)]
        return (" : " if numbers and len(numbers) == len(value) else " + ").join(map(as_option, value)) or "none"
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    return f"{value:.4g}" if isinstance(value, float) else str(value) or "none"


def split_rows(store: Store) -> list[Row]:
    return [(name, f"{info.molecules:,}", info.sha256) for name, info in store.manifest.splits.items()]


def label_rows(store: Store) -> list[Row]:
    """One row for each label and split."""
    rows: list[Row] = []
    for position, label in enumerate(store.manifest.labels):
        for split, statistics in store.manifest.statistics.items():
            about = statistics[position]
            numbers: tuple[str, ...] = ("0", "-", "-", "-", "-")
            if about is not None:
                numbers = (f"{about.count:,}", *(f"{value:.6g}" for value in (about.mean, about.std, about.min, about.max)))
            rows.append((label.name, label.unit or "-", label.kind, split, *numbers))
    return rows


def failure_reasons(store: Store) -> list[Row]:
    """(count, reason, one input that gave it), the most frequent first; what a reason quotes of its row is left out."""
    counts: Counter[str] = Counter()
    example: dict[str, str] = {}
    for failure in store.failures():
        reason = general(failure.reason, failure.input)
        counts[reason] += 1
        example.setdefault(reason, failure.input)
    return [(f"{count:,}", reason, shorten(example[reason], 60)) for reason, count in counts.most_common(REASONS_SHOWN)]


def general(reason: str, row: str) -> str:
    """A reason without what is of its row alone: the input itself, quoted texts, numbers; in one line, whole up to a length."""
    text = reason.replace(row, "...") if len(row) > 2 else reason
    text = re.sub(r"(?<!\w)('[^']*'|\"[^\"]*\")(?!\w)", "...", text)
    text = re.sub(r"(?<![\w.])\d+(?![\w.]*\w)", "...", text)
    text = re.sub(r"(\.\.\.[\s,]*){2,}", "... ", " ".join(text.split()))
    return shorten(text.rstrip(" .:;,"), LONGEST_REASON) or "no reason given"


def size_histogram(store: Store) -> tuple[list[str], list[int]]:
    """Labels ("12" or "10-14") and molecule counts of at most `BINS` ranges of atom numbers."""
    atoms = np.asarray(store.num_atoms).astype(np.int64)
    low, high = int(atoms.min()), int(atoms.max())
    width = -(-(high - low + 1) // BINS)
    counts = np.bincount((atoms - low) // width)
    starts = [low + width * number for number in range(len(counts))]
    return [str(a) if width == 1 else f"{a}-{a + width - 1}" for a in starts], counts.tolist()


def label_text(store: Store, graph: MolecularGraph, most: int = 4) -> str:
    """The first few labels of a molecule that are present, with units."""
    pairs = [(label, value) for label, value in zip(store.manifest.labels, graph.labels.tolist(), strict=True) if value == value]
    texts = [f"{label.name} {value:.5g}{' ' + label.unit if label.unit else ''}" for label, value in pairs[:most]]
    return ", ".join(texts) + (f", {len(pairs) - most} more" if len(pairs) > most else "")


def shorten(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."


def print_text(store: Store, shown: list[tuple[int, MolecularGraph]]) -> None:
    print(store.path)
    for name, value in overview(store):
        print(f"  {name:<19} {value}")
    print_table(SPLIT_HEADER, split_rows(store))
    print_table(("atoms", "molecules", ""), histogram_rows(store))
    print_table(LABEL_HEADER, label_rows(store))
    print_table(("rows", "reason for failure", "for example"), failure_reasons(store))
    molecules = [(index, graph.num_atoms, shorten(graph.smiles, 70), label_text(store, graph)) for index, graph in shown]
    print_table(("molecule", "atoms", "SMILES", "labels"), molecules)


def histogram_rows(store: Store) -> list[Row]:
    labels, counts = size_histogram(store)
    scale = 40 / max(counts)
    return [(label, f"{count:,}", "#" * max(1, round(scale * count))) for label, count in zip(labels, counts, strict=True) if count]


def print_table(header: Row, rows: Sequence[Row]) -> None:
    """Columns padded to their widest cell; nothing where there are no rows."""
    if not rows:
        return
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    print()
    for row in cells:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def as_html(store: Store, shown: list[tuple[int, MolecularGraph]]) -> str:
    """The same facts as a page, with the molecules drawn."""
    try:
        from moleblend_fs.chem.depict import molecule_svg
    except ModuleNotFoundError as error:
        raise UserError(f"--html draws molecules with {error.name}: pip install 'moleblend-fs[chem]', or leave --html out") from error
    labels, counts = size_histogram(store)
    hashes = split_rows(store)
    splits = [(name, count, short_hash(str(digest))) for name, count, digest in hashes]
    inputs = [(name, "-", digest) for name, digest in store.manifest.inputs.items()]
    body = [
        html.section("Overview", html.table(("", ""), overview(store), name="what holds for the whole store")),
        html.section("Sizes", html.bars(labels, counts, axis="atoms in a molecule")),
        html.section(
            "Splits",
            html.table(("split", "molecules", "hash of its rows"), splits, numeric=(1,)),
            html.details("Whole hashes", html.table(("split or input", "molecules", "SHA-256"), [*hashes, *inputs], numeric=(1,))),
        ),
    ]
    if store.manifest.labels:
        body.append(html.section("Labels", html.table(LABEL_HEADER, label_rows(store), numeric=range(4, 9))))
    if reasons := failure_reasons(store):
        body.append(html.section("Failures", html.table(("rows", "reason", "for example"), reasons, numeric=(0,))))
    pictures = [
        html.figure(
            molecule_svg(graph),
            caption=f"<b>{index}</b> &nbsp;{counted(graph.num_atoms, 'atom')}<br><code>{html.escape(shorten(graph.smiles, 90))}</code><br>"
            f"{html.escape(label_text(store, graph))}",
        )
        for index, graph in shown
    ]
    if pictures:
        body.append(html.section("Molecules", f'<div class="gallery">{"".join(pictures)}</div>'))
    return html.page(f"Store {store.path.name}", f"<code>{html.escape(store.path)}</code>", body)


def verify(store: Store) -> int:
    """Compare records, splits, index arrays and failures.csv with the manifest; 0 if all is as it was written, else 1."""
    found = list(problems(store))
    for problem in found:
        print(f"\nNOT VERIFIED: {problem}", file=sys.stderr)
    if found:
        print("\ncopy the store again, or run `moleblend preprocess` again", file=sys.stderr)
        return 1
    print(
        f"\nverified: {counted(len(store), 'record has', 'records have')} the SHA-256 of the manifest "
        f"({store.manifest.records_sha256}), splits and rows agree"
    )
    return 0
