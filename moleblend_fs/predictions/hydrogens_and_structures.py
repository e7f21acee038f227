"""How molecules are made for a model: hydrogens and structures as in its training, and what does not fit is reported."""

from collections.abc import Iterable
from typing import Literal

from moleblend_fs.chem.conformers import ConformerOptions
from moleblend_fs.chem.mol_to_graph import MAX_ATOMS
from moleblend_fs.chem.smiles_to_graph import NO_CONFORMERS, BuildOptions
from moleblend_fs.data.graph import FEATURISATION_VERSION
from moleblend_fs.data.model_description import Described, reads_structures
from moleblend_fs.data.trained_on import UNKNOWN, TrainedOn
from moleblend_fs.errors import UserError
from moleblend_fs.inference.checkpoint_fit import FLAG, STRUCTURES, Use, compare
from moleblend_fs.sources.molecules_to_predict import Incoming

HYDROGENS = ("none", "explicit")


def prepare(
    incoming: Incoming,
    checkpoint: Described,
    *,
    purpose: Literal["predict", "embed"],
    inputs: str,
    name: str = "the molecules",
    hydrogens: str | None = None,
    allowed: Iterable[str] = (),
    max_atoms: int = MAX_ATOMS,
) -> list[str]:
    """Make an input's molecules as those that a model was trained on; returns what the user should know.

    Args:
        inputs: what the model reads. name: what the input is called in messages.
        hydrogens: of `HYDROGENS`, where the checkpoint does not say it, or another choice is meant.
        allowed: topics that are meant to differ, see `inference.checkpoint_fit.TOPICS`.

    Raises:
        UserError: the input does not fit the model, or lacks structures that nothing can stand in for.
    """
    then, topics = checkpoint.trained_on, frozenset(allowed)
    chosen = hydrogens or (UNKNOWN if then is None else then.hydrogens) or "none"
    structures, conformers = "none", NO_CONFORMERS
    if reads_structures(inputs) and incoming.has_structures:
        structures = "file"
    elif reads_structures(inputs):
        structures, conformers = "ETKDG", _conformers(checkpoint, inputs, topics)
    incoming.want(BuildOptions(hydrogens=chosen == "explicit", conformers=conformers, max_atoms=max_atoms), structures=structures == "file")
    now = TrainedOn(
        source=incoming.name,
        featurisation=FEATURISATION_VERSION,
        hydrogens=chosen,
        structures=structures,
        conformers=None,
        molecules=0,
        molecules_with_3d=0,
        labels=(),
        inputs={},
        records_sha256="",
        split={},
        splits={},
    )
    lines = compare(checkpoint, Use(purpose=purpose, store=now, name=name, inputs=inputs, prepared=True, allowed=topics)).lines
    if then is None and hydrogens is None:
        lines.append("molecules are made of heavy atoms only; --hydrogens explicit where it was trained with hydrogens")
    return lines


def _conformers(checkpoint: Described, inputs: str, allowed: frozenset[str]) -> ConformerOptions:
    """How structures are made for a model that reads them; UserError where it was trained on others than could be made."""
    then = checkpoint.trained_on
    if then is not None and then.structures == "ETKDG" and then.conformers is not None:
        return conformers_of(checkpoint)
    if "structures" in allowed:
        return ConformerOptions(count=1)
    origin = "structures of which it does not tell the origin" if then is None else STRUCTURES.get(then.structures, then.structures)
    raise UserError(
        f"{checkpoint.about.get('file')} reads structures (inputs {inputs}) and was trained on {origin}, but the input is SMILES alone. "
        f"What to do: give an SD file with structures, or use a model with --inputs 2d. If structures of ETKDG may stand in: "
        f"{FLAG} structures"
    )


def conformers_of(checkpoint: Described) -> ConformerOptions:
    """How the structures of a model's training were made; UserError where that is not understood."""
    assert checkpoint.trained_on is not None
    try:
        return ConformerOptions(**(checkpoint.trained_on.conformers or {"count": 1}))
    except (TypeError, ValueError) as error:
        raise UserError(f"{checkpoint.about.get('file')}: how its conformers were made is not understood ({error})") from error
