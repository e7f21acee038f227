"""Whether a checkpoint fits a store: what it was trained on, compared with what it is to be used for."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from moleblend_fs.data.graph import LabelSpec
from moleblend_fs.data.model_description import Described, FinetunedFor, reads_structures
from moleblend_fs.data.trained_on import UNKNOWN, TrainedOn
from moleblend_fs.data.units import factor
from moleblend_fs.errors import UserError
from moleblend_fs.wording import counted

Purpose = Literal["resume", "finetune", "evaluate", "predict", "embed"]
TOPICS = ("hydrogens", "featurisation", "structures", "units", "records", "splits", "targets", "inputs", "objective")
"""What may differ where that is meant."""
FLAG = "--allow-differences"
FLAG_HELP = (
    "differences between what a checkpoint was trained on and this store that are meant, separated by commas: "
    f"{', '.join(TOPICS)} (default: none, the message names what differs)"
)
HYDROGENS = {"explicit": "explicit hydrogens", "none": "heavy atoms only (--hydrogens none)"}
GO_ON = "go on with the store, --targets and --inputs that it was trained with, or begin a new run with another --save-dir"
STRUCTURES = {"DFT": "structures of DFT", "ETKDG": "structures of ETKDG", "file": "structures from a file", "none": "no structures"}


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that a model was trained on is not as it is here.

    Attributes:
        topic: one of `TOPICS`; "" for what cannot be meant.
        text: what differs. remedy: what to do about it.
    """

    topic: str
    text: str
    remedy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """What a checkpoint is to be used for.

    Attributes:
        purpose: see `Purpose`.
        store: the store. name: its path, for messages.
        inputs: "2d", "3d" or "2d+3d" of what is computed; "" in pretraining.
        split: that is evaluated.
        run: what this run learns (only for "resume").
        prepared: whether there is no store, and molecules are made as the checkpoint wants them.
        allowed: topics that are meant to differ.
    """

    purpose: Purpose
    store: TrainedOn
    name: str
    inputs: str = ""
    split: str = ""
    run: FinetunedFor | None = None
    prepared: bool = False
    allowed: frozenset[str] = frozenset()

    @property
    def what(self) -> str:
        """What the store is called in messages."""
        return "the input" if self.prepared else "the store"


def parse_allowed(text: str | None) -> frozenset[str]:
    """The topics of --allow-differences; UserError names those that there are."""
    topics = frozenset(word.strip() for word in (text or "").split(",") if word.strip())
    if unknown := sorted(topics - set(TOPICS)):
        raise UserError(f"{FLAG} {text}: no difference is called {unknown[0]!r}; there are {', '.join(TOPICS)}")
    return topics


@dataclass(frozen=True, slots=True)
class Comparison:
    """What there is to know before a checkpoint is used.

    Attributes:
        lines: for the user: what differs as meant, what cannot be compared, what is converted.
        differing: topics that differ as meant.
    """

    lines: list[str]
    differing: frozenset[str]


def compare(found: Described, use: Use, more: Sequence[Difference] = ()) -> Comparison:
    """Compare what a checkpoint was trained on with what it is to be used for.

    Args:
        more: differences that are known already.

    Raises:
        UserError: something differs that was not allowed; it names each difference, the remedies, and the flag that allows it.
    """
    file = str(found.about.get("file", "the checkpoint"))
    differences = [*_differences(found, use), *more]
    refused = [difference for difference in differences if difference.topic not in use.allowed]
    if refused:
        remedies = "; ".join(dict.fromkeys(difference.remedy for difference in refused))
        topics = ",".join(dict.fromkeys(difference.topic for difference in differences))
        meant = f". If that is meant: {FLAG} {topics}" if all(difference.topic for difference in refused) else ""
        raise UserError(f"{file} does not fit {use.name}: {_listed(refused)}. What to do: {remedies}{meant}")
    lines = [f"differs from {file}, as {FLAG} says: {_listed(differences)}"] if differences else []
    if found.trained_on is None:
        why = "the reference release's do not" if found.about.get("format") == "reference release" else "it is of an earlier version"
        heavy = "; the published weights are of heavy atoms (--hydrogens none)" if why.startswith("the ref") else ""
        lines.append(f"{file} does not say what it was trained on ({why}): it cannot be compared with {use.name}{heavy}")
    elif reads_structures(use.inputs) and found.trained_on.molecules_with_3d == 0 and use.purpose == "finetune":
        lines.append(f"{file} was trained without structures: what reads distances begins untrained")
    if use.purpose == "evaluate" and found.finetuned is not None and "units" not in use.allowed:
        lines += _conversions(found.finetuned, use.store.labels)
    return Comparison(lines, frozenset(difference.topic for difference in differences))


def label_factors(about: FinetunedFor, labels: Iterable[LabelSpec]) -> np.ndarray:
    """(targets,) what labels of a store are multiplied by to be in the model's units; 1 where that is not known."""
    units = {label.name: label.unit for label in labels}
    factors = (factor(units.get(name, unit), unit) for name, unit in zip(about.targets, about.units, strict=True))
    return np.array([1.0 if each is None else each for each in factors])


def _listed(differences: list[Difference]) -> str:
    return "; ".join(difference.text for difference in differences)


def _differences(found: Described, use: Use) -> list[Difference]:
    result: list[Difference] = []
    then, about = found.trained_on, found.finetuned
    if then is not None:
        result += _molecules(then, use)
        if use.purpose in ("evaluate", "predict", "embed"):
            result += _structures(then, use)
        if use.purpose == "resume":
            result += _trained_molecules(then, use.store)
        elif about is not None and use.purpose in ("finetune", "evaluate"):
            result += _trained_labels(then, use)
    if use.purpose == "resume" and about is not None and use.run is not None:
        result += _run(about, use.run)
    if use.purpose == "evaluate" and about is not None:
        result += _labels(about, use.store.labels)
    return result


def _molecules(then: TrainedOn, use: Use) -> list[Difference]:
    """Differences of the atoms and of their features."""
    now, result = use.store, []
    if then.hydrogens != now.hydrogens and UNKNOWN not in (then.hydrogens, now.hydrogens):
        other = f", or start from weights pretrained with --hydrogens {now.hydrogens}" if use.purpose == "finetune" else ""
        remedy = f"make the store with `moleblend preprocess ... --hydrogens {then.hydrogens}`{other}"
        remedy = "leave out --hydrogens" if use.prepared else remedy
        text = f"it was trained on molecules with {_hydrogens(then)}, those of {use.what} have {_hydrogens(now)}"
        result.append(Difference("hydrogens", text, remedy))
    if then.featurisation != now.featurisation:
        text = f"it was trained on features of version {then.featurisation}, {use.what}'s are of version {now.featurisation}"
        result.append(Difference("featurisation", text, "train it again with this version, or use it with the version that trained it"))
    return result


def _hydrogens(store: TrainedOn) -> str:
    return HYDROGENS.get(store.hydrogens, f"hydrogens {store.hydrogens!r}")


def _structures(then: TrainedOn, use: Use) -> list[Difference]:
    """Another origin of the coordinates; what a store without any does not allow is found elsewhere."""
    now = use.store
    if "3d" not in use.inputs or now.structures in ("none", *then.structures.split("+")):
        return []
    theirs, ours = (" and ".join(STRUCTURES.get(kind, kind) for kind in each.structures.split("+")) for each in (then, now))
    made = "give SMILES alone, of which structures are made as in training" if then.structures == "ETKDG" else f"give {theirs}"
    remedy = f"{made if use.prepared else f'preprocess with {theirs}'}, or use a model with --inputs 2d"
    return [Difference("structures", f"it was trained on {theirs}, {use.what} has {ours}", remedy)]


def _trained_molecules(then: TrainedOn, now: TrainedOn) -> list[Difference]:
    """Other molecules than the run trained on before."""
    result = []
    if then.records_sha256 != now.records_sha256:
        counts = f"{then.molecules} from {then.source} in training, {now.molecules} from {now.source} here"
        text = f"other molecules, labels or structures ({counts})"
        result.append(Difference("records", text, GO_ON))
    before, after = ({info.sha256 for info in each.trained_splits().values()} for each in (then, now))
    chose, chooses = then.choosing_split(), now.choosing_split()
    if before != after:
        text = f"another training split ({_split(then, then.train_subset)} in training, {_split(now, now.train_subset)} here)"
        result.append(Difference("splits", text, GO_ON))
    elif chose is not None and chooses is not None and chose.sha256 != chooses.sha256:
        text = f"another validation split ({_split(then, then.valid_subset)} in training, {_split(now, now.valid_subset)} here)"
        result.append(Difference("splits", text, GO_ON))
    return result


def _trained_labels(then: TrainedOn, use: Use) -> list[Difference]:
    """The same molecules split otherwise: those of a split of now may have been trained on, with their labels."""
    now = use.store
    trained = {info.sha256 for info in then.trained_splits().values()}
    if not trained or not then.same_rows(now) or trained & {info.sha256 for info in now.splits.values()}:
        return []
    untrained = {info.sha256 for name, info in then.splits.items() if name not in then.trained_splits()}
    if use.split and use.split in now.splits and now.splits[use.split].sha256 in untrained:
        return []
    what = f"split {use.split!r}" if use.split else "valid and test splits"
    text = (
        f"it was trained on the same molecules with another split ({then.split_described()} in training, {now.split_described()} here), "
        f"so that molecules of the {what} may have been trained on"
    )
    return [Difference("splits", text, "use the store that it was trained on, or one of the same split")]


def _split(store: TrainedOn, names: str) -> str:
    molecules = sum(store.splits[name].molecules for name in names.split(",") if name in store.splits)
    return f"{names or 'none'}: {counted(molecules, 'molecule')}, {store.split_described()}"


def _run(then: FinetunedFor, now: FinetunedFor) -> list[Difference]:
    """Another task than before the stop."""
    result = []
    if then.targets != now.targets or then.kinds != now.kinds:
        text = f"other targets ({_targets(then)} in training, {_targets(now)} here)"
        result.append(Difference("targets" if len(then.targets) == len(now.targets) else "", text, GO_ON))
    elif then.units != now.units:
        text = f"other units ({', '.join(then.units)} in training, {', '.join(now.units)} here)"
        result.append(Difference("units", text, GO_ON))
    if then.inputs != now.inputs:
        result.append(Difference("inputs", f"other inputs ({then.inputs} in training, {now.inputs} here)", GO_ON))
    return result


def objective_differences(then: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> list[Difference]:
    """Other objectives, options of them, or values in their sidecars, than before the stop.

    Args:
        then, now: what is known of pretraining, see `objectives.objective.Objective.facts`, with the hash of each sidecar's values; what
            an earlier version did not tell is not compared.
    """
    if then is None or now is None:
        return []
    before, after = ({each["name"]: each for each in facts["objectives"]} for facts in (then, now))
    if before.keys() != after.keys():
        found = [f"--objective {','.join(before)} in training, {','.join(after)} here"]
    else:
        found = [text for name in after for text in _other_options(before[name], after[name])]
        kept, made = (facts.get("sidecars", {}) for facts in (then, now))
        found += [f"sidecar {name!r} has other values" for name in made if kept.get(name, made[name]) != made[name]]
    remedy = "go on with the --objective, options and sidecars that it was trained with, or begin a new run with another --save-dir"
    return [Difference("objective", f"something else is learned ({', '.join(found)})", remedy)] if found else []


def _other_options(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Options of an objective, and its weight in a sum, that are not as before."""
    for name, value in now["options"].items():
        if (old := then["options"].get(name, value)) != value:
            yield f"--{name.replace('_', '-')} {_option(old)} in training, {_option(value)} here"
    if then["weight"] != now["weight"]:
        yield f"{now['name']} with weight {then['weight']:g} in training, {now['weight']:g} here"


def _option(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _targets(about: FinetunedFor) -> str:
    return shortened([f"{name} ({kind})" for name, kind in zip(about.targets, about.kinds, strict=True)])


def shortened(names: Sequence[str], most: int = 5) -> str:
    """The first of some names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _labels(about: FinetunedFor, labels: Iterable[LabelSpec]) -> list[Difference]:
    """Labels that predictions cannot be scored against."""
    here, result = {label.name: label for label in labels}, []
    for name, kind, unit in zip(about.targets, about.kinds, about.units, strict=True):
        label = here.get(name)
        if label is None:
            continue  # told with the labels that there are
        if label.kind != kind:
            text = f"target {name!r} is a {kind} of the model, a {label.kind} in the store"
            result.append(Difference("", text, f"preprocess with --label {name}:{kind}"))
        elif factor(label.unit, unit) is None:
            text = f"target {name!r} is in {_unit(unit)} in the model, in {_unit(label.unit)} in the store"
            remedy = f"preprocess values in the model's unit with --label '{name}:{kind}{f':{unit}' if unit else ''}'"
            result.append(Difference("units", text, remedy))
    return result


def _conversions(about: FinetunedFor, labels: tuple[LabelSpec, ...]) -> list[str]:
    units = {label.name: label.unit for label in labels}
    lines = []
    for name, unit, each in zip(about.targets, about.units, label_factors(about, labels), strict=True):
        if each != 1.0:
            lines.append(f"labels of {name!r} are turned from {units[name]} into the model's {unit}: multiplied by {each:.10g}")
    return lines


def _unit(unit: str) -> str:
    return unit or "a unit that is not told"
