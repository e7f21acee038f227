"""What the commands that make a store say at their end."""

from pathlib import Path

from moleblend_fs.data.manifest import Manifest
from moleblend_fs.data.store import FAILURES, RECORDS


def print_summary(manifest: Manifest, out: Path, seconds: float) -> None:
    """What is in the new store, on stdout."""
    size = (out / RECORDS).stat().st_size
    print(f"{out}: {manifest.molecules:,} molecules in {seconds:.1f} s, {size / manifest.molecules:,.0f} bytes each")
    print(f"  with 3D   {manifest.molecules_with_3d:,} molecules, {manifest.conformers:,} conformers")
    print(f"  labels    {', '.join(label.name for label in manifest.labels[:12]) or 'none'}{' ...' if len(manifest.labels) > 12 else ''}")
    parts = ", ".join(f"{name} {info.molecules:,}" for name, info in manifest.splits.items())
    print(f"  splits    {parts} ({manifest.split['kind']})")
    print(f"  failures  {manifest.failures:,}" + (f", listed in {out / FAILURES}" if manifest.failures else ""))
