"""What a checkpoint was trained on, as far as it matters for what it may be used with: written into every checkpoint."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from moleblend_fs.data.graph import LabelSpec
from moleblend_fs.data.manifest import Manifest, SplitInfo
from moleblend_fs.data.typed_json import from_json

UNKNOWN = ""
"""Stands for hydrogens that a store does not tell of."""
HEAVY_ATOM_SOURCES = ("pcqm4mv2",)
"""Sources that have no option for hydrogens: heavy atoms only."""
MIXTURE = "mixture"
"""Source of several stores together, see `Mixture`."""
COMPUTED_SOURCES = ("pcqm4mv2", "qm9")
"""Sources whose structures are DFT's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedOn:
    """A store, seen from a model.

    Attributes:
        source: name of the source.
        featurisation: version of the features, see `FEATURISATION_VERSION`.
        hydrogens: "explicit", "none" (heavy atoms) or unknown.
        structures: "none", "DFT", "ETKDG" (made by preprocessing) or "file" (the user's own); several, joined by "+", of a mixture.
        conformers: options that ETKDG's were made with, or None.
        molecules: in the store; molecules_with_3d: of these, with a structure.
        labels: all label columns: names, kinds and units.
        inputs: input file -> its hash.
        records_sha256: of all molecules with their labels and structures.
        split: how the store was split: kind, seed and so on.
        splits: split name -> molecules and their hash.
        train_subset, valid_subset: names of splits as training was given them; "" where nothing was trained.
    """

    source: str
    featurisation: int
    hydrogens: str
    structures: str
    conformers: dict[str, Any] | None
    molecules: int
    molecules_with_3d: int
    labels: tuple[LabelSpec, ...]
    inputs: dict[str, str]
    records_sha256: str
    split: dict[str, Any]
    splits: dict[str, SplitInfo]
    train_subset: str = ""
    valid_subset: str = ""

    @classmethod
    def of(cls, manifest: Manifest, *, train_subset: str = "", valid_subset: str = "") -> "TrainedOn":
        """From what a store says of itself."""
        options = manifest.options
        heavy = "none" if manifest.source in HEAVY_ATOM_SOURCES else UNKNOWN
        conformers = options.get("conformers")
        return cls(
            source=manifest.source,
            featurisation=manifest.featurisation_version,
            hydrogens=options.get("hydrogens", heavy),
            structures=_structures(manifest),
            conformers=dict(conformers) if isinstance(conformers, Mapping) else None,
            molecules=manifest.molecules,
            molecules_with_3d=manifest.molecules_with_3d,
            labels=manifest.labels,
            inputs=dict(manifest.inputs),
            records_sha256=manifest.records_sha256,
            split=dict(manifest.split),
            splits=dict(manifest.splits),
            train_subset=train_subset,
            valid_subset=valid_subset,
        )

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "TrainedOn":
        """The inverse of `to_json`; fields of later versions are left out, and blanks after commas that earlier ones wrote."""
        known = {field.name: content[field.name] for field in fields(cls) if field.name in content}
        found = from_json(cls, known)
        return replace(found, train_subset=_without_blanks(found.train_subset), valid_subset=_without_blanks(found.valid_subset))

    def trained_splits(self) -> dict[str, SplitInfo]:
        """The splits that were trained on."""
        return {name: self.splits[name] for name in self.train_subset.split(",") if name in self.splits}

    def choosing_split(self) -> SplitInfo | None:
        """The split whose score chose the best checkpoint: the first of --valid-subset."""
        return self.splits.get(self.valid_subset.split(",")[0])

    def same_rows(self, other: "TrainedOn") -> bool:
        """Whether both come from the same files, whatever labels and hydrogens were taken: rows of one are rows of the other."""
        mine, theirs = sorted(self.inputs.values()), sorted(other.inputs.values())
        return self.records_sha256 == other.records_sha256 or (len(mine) > 0 and mine == theirs)

    def split_described(self) -> str:
        """How it was split, in a few words."""
        kind = self.split.get("kind", "?")
        return f"{kind}, seed {self.split['seed']}" if "seed" in self.split else str(kind)


def _without_blanks(subset: str) -> str:
    return ",".join(name.strip() for name in subset.split(","))


def _structures(manifest: Manifest) -> str:
    if manifest.molecules_with_3d == 0:
        return "none"
    if manifest.source == MIXTURE:
        return str(manifest.options["structures"])
    if manifest.source in COMPUTED_SOURCES:
        return "DFT"
    return "ETKDG" if manifest.options.get("conformers") else "file"
