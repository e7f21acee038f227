"""`moleblend inspect` of weights: sizes, what they were trained on, and the card of published ones."""

import argparse
from pathlib import Path
from typing import Any

from moleblend_fs.checkpoint.model_card import ModelCard
from moleblend_fs.checkpoint.read import Checkpoint, load
from moleblend_fs.checkpoint.weights_by_name import CONFIG, WEIGHTS, located, names
from moleblend_fs.errors import UserError
from moleblend_fs.files import write_atomically
from moleblend_fs.model.config import architecture_options
from moleblend_fs.report import html
from moleblend_fs.report.html import short_hash
from moleblend_fs.wording import counted

Row = tuple[object, ...]
STORE_HEADER = ("source", "trained on", "left out", "molecules that are excluded", "SHA-256 of its records")


def are_weights(given: str) -> bool:
    """Whether what is to be inspected is a checkpoint: a file of torch, a folder of one, or a name."""
    return given in names() or given.endswith(".pt") or (Path(given) / CONFIG).is_file()


def run_weights(arguments: argparse.Namespace) -> int:
    """Print, and write the page; reading compares the hashes that were written with the weights."""
    if arguments.molecules is not None or arguments.seed:
        raise UserError("--molecules and --seed go with a store; leave them out")
    path = located(arguments.store)
    checkpoint = load(path)
    parts = {"": overview(path, checkpoint)}
    if checkpoint.card is not None:
        parts["Card"] = card_rows(checkpoint.card)
    stores = [] if checkpoint.card is None else store_rows(checkpoint.card)
    print(path)
    for rows in parts.values():
        print(*(f"  {name!s:<22} {value}" for name, value in rows), sep="\n")
    for row in stores:
        print("  store", *(f"    {name}: {value}" for name, value in zip(STORE_HEADER, row, strict=True)), sep="\n")
    if arguments.html is not None:
        body = [html.section(title or "Overview", html.table(("", ""), rows)) for title, rows in parts.items()]
        if stores:
            body.append(html.section("Pretrained on", html.table(STORE_HEADER, stores)))
        write_atomically(arguments.html, html.page(f"Weights {path.name}", f"<code>{html.escape(path)}</code>", body))
        print(f"\nwritten: {arguments.html}")
    if arguments.verify:
        print("\nverified: weights and description have the SHA-256 that was written with them" if path.is_dir() else "\nread whole")
    return 0


def overview(path: Path, checkpoint: Checkpoint) -> list[Row]:
    """(name, value) of any checkpoint."""
    config, trained_on, about = checkpoint.config, checkpoint.trained_on, checkpoint.finetuned
    numbers = sum(value.numel() for value in checkpoint.weights.values())
    size = sum((path / name).stat().st_size for name in (WEIGHTS, CONFIG)) if path.is_dir() else path.stat().st_size
    rows: list[Row] = [
        ("size", f"{architecture_options(config)}: {numbers:,} numbers, {size / 1e6:.2f} MB"),
        ("heads", ", ".join(config.heads) or "none"),
        ("finetuned for", "nothing" if about is None else f"{', '.join(about.targets)} from {about.inputs}"),
    ]
    if trained_on is None:
        return [*rows, ("trained on", "it does not say")]
    return [
        *rows,
        ("trained on", f"{trained_on.source}, {counted(trained_on.molecules, 'molecule')}, {trained_on.molecules_with_3d:,} with 3D"),
        ("hydrogens", trained_on.hydrogens or "unknown"),
        ("featurisation", f"version {trained_on.featurisation}"),
        ("SHA-256 of the records", trained_on.records_sha256),
    ]


def card_rows(card: ModelCard) -> list[Row]:
    """(name, value) of a card, but for its stores."""
    molecules = f" of {counted(card.molecules_per_update, 'molecule')} at most" if card.molecules_per_update else ""
    return [
        *(("objective", f"{each.get('name')} (weight {each.get('weight')}): {_told(each.get('options', {}))}") for each in card.objectives),
        ("compute", f"{counted(card.updates, 'update')}{molecules}, {card.seconds / 3600:.2f} hours"),
        ("learning rate", f"{card.learning_rate:g}"),
        ("settings", _told(card.settings)),
        ("precision", card.precision),
        ("heads left out", ", ".join(card.dropped) or "none"),
        ("licence", card.licence),
        *(("limit", text) for text in card.limits),
        *(("note", text) for text in card.notes),
        ("written by", f"moleblend_fs {card.version}"),
    ]


def store_rows(card: ModelCard) -> list[Row]:
    """A line for each store of the pretraining."""
    rows: list[Row] = []
    for store in card.stores:
        excluded = store.options.get("exclude") or {}
        files = ", ".join(f"{name} ({short_hash(digest)})" for name, digest in store.inputs.items())
        left_out = ", ".join(f"{count:,} {why}" for why, count in store.left_out.items()) or "none"
        sets = f"those of {', '.join(excluded['sets'])} ({excluded['skeletons']:,} skeletons)" if "sets" in excluded else "none"
        rows.append((f"{store.source}, {files}", counted(store.molecules, "molecule"), left_out, sets, store.records_sha256))
    return rows


def _told(values: dict[str, Any]) -> str:
    """Names and values in a line."""
    parts = [f"{name} ({_told(value)})" if isinstance(value, dict) else f"{name} {value}" for name, value in values.items()]
    return ", ".join(parts) or "no options"
