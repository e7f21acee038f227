"""What the commands that make a store say at their end."""

from pathlib import Path

from moleblend_fs.data.manifest import Manifest
from moleblend_fs.data.store import FAILURES, RECORDS
from moleblend_fs.wording import counted


def print_summary(manifest: Manifest, out: Path, seconds: float) -> None:
    """What is in the new store, on stdout."""
    size = (out / RECORDS).stat().st_size
    print(f"{out}: {counted(manifest.molecules, 'molecule')} in {seconds:.1f} s, {size / manifest.molecules:,.0f} bytes each")
    relaxed = "" if manifest.converged is None else f", of them minima of the force field {manifest.converged:,}"
    print(f"  with 3D   {counted(manifest.molecules_with_3d, 'molecule')}, {counted(manifest.conformers, 'conformer')}{relaxed}")
    print(f"  labels    {', '.join(label.name for label in manifest.labels[:12]) or 'none'}{' ...' if len(manifest.labels) > 12 else ''}")
    parts = ", ".join(f"{name} {info.molecules:,}" for name, info in manifest.splits.items())
    print(f"  splits    {parts} ({manifest.split['kind']})")
    print(f"  failures  {manifest.failures:,}" + (f", listed in {out / FAILURES}" if manifest.failures else ""))
    for name, text in accounts(manifest):
        print(f"  {name:<9} {text}")


def accounts(manifest: Manifest) -> list[tuple[str, str]]:
    """(name, text) of what should be known of a store besides its contents: where all rows went, what is repeated, notes."""
    rows = [] if manifest.rows is None else [("rows", manifest.rows.text())]
    repeated = [("repeated", text)] if (text := manifest.duplicates.text()) else []
    return [*rows, *repeated, *(("note", note) for note in manifest.notes)]
