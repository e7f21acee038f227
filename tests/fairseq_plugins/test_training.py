"""fairseq-train as a whole on small real stores: awkward molecules, every objective, resume, selection, logs."""

import math

import pytest
import torch
from fairseq import options as fairseq_options

from moleblend_fs.checkpoint.read import load, read_torch_file
from moleblend_fs.model.config import PRESETS
from tests.conftest import preprocessed
from tests.fairseq_plugins.runs import ADAM, FINETUNE, NO_DROPOUT, PRETRAIN, SMALL, Run, arguments, train

PRETRAIN_LOSSES = ("spd_loss", "edge_loss", "displacement_loss", "noisy_nodes_loss")


def all_finite(run: Run) -> None:
    """Every logged value is; a loss of which an interval had no target has none."""
    for tag, values in run.lines:
        for key, value in values.items():
            if value is None:
                assert tag == "train_inner", key
                assert key in PRETRAIN_LOSSES
            else:
                assert math.isfinite(float(value)), (tag, key, value)


@pytest.mark.parametrize("size", ["1", "5"])
def test_pretraining_on_awkward_molecules(awkward_store, tmp_path, size):
    """Alone, or five at a time of similar size: a batch of lone atoms, batches without coordinates, without any target."""
    run = train(awkward_store.path, tmp_path, *PRETRAIN, *SMALL, *ADAM, "--batch-size", size, "--max-epoch", "2")
    all_finite(run)
    molecules = awkward_store.manifest.splits["train"].molecules
    assert run.column("train", "train_molecules") == [molecules] * 2
    assert run.column("valid", "valid_molecules") == [awkward_store.manifest.splits["valid"].molecules] * 2
    # Dative bonds have no class, and are counted: two atoms and two hops of them in both directions.
    assert run.column("train", "train_bonds_out_of_range") == [8, 8]
    for name in PRETRAIN_LOSSES:
        assert f"train_{name}" in run.logged("train")[0]
    assert max(run.column("train_inner", "gnorm")) < 1e4
    if size == "1":
        assert min(run.column("train_inner", "gnorm")) == 0, "a lone atom without coordinates has no target"


@pytest.mark.parametrize(("inputs", "target"), [("2d", "y"), ("2d+3d", "y"), ("2d+3d", "c"), ("2d", "c")])
def test_finetuning_on_awkward_molecules(awkward_store, tmp_path, inputs, target):
    options = ("--inputs", inputs, "--targets", target, "--batch-size", "5", "--max-epoch", "2")
    run = train(awkward_store.path, tmp_path, *FINETUNE, *SMALL, *ADAM, *options)
    all_finite(run)
    assert run.column("train", "train_molecules") == [awkward_store.manifest.splits["train"].molecules] * 2
    assert {"y": ("valid_rmse", "valid_mae"), "c": ("valid_roc_auc",)}[target][0] in run.logged("valid")[0]


MASKED = "--mask-ratio 0.5 --predict-pairs hidden"
OBJECTIVES = {
    "distance target": ("--geometry-target distance", {"spd", "edge", "distance", "noisy_nodes"}),
    "hidden pairs only": ("--predict-pairs hidden", {"spd", "edge", "displacement", "noisy_nodes"}),
    "noisy nodes only": ("--spd-weight 0 --edge-weight 0 --geometry-weight 0", {"noisy_nodes"}),
    "SPD masking": (f"--blend-ratio 1,0,0 --edge-weight 0 --geometry-weight 0 --noise-weight 0 {MASKED}", {"spd"}),
    "edge masking": (f"--blend-ratio 0,1,0 --spd-weight 0 --geometry-weight 0 --noise-weight 0 {MASKED}", {"edge"}),
    "3D masking": (f"--blend-ratio 0,0,1 --spd-weight 0 --edge-weight 0 --geometry-target distance {MASKED}", {"distance", "noisy_nodes"}),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objectives_of_the_same_machine(qm9_store, tmp_path, name):
    options, losses = OBJECTIVES[name]
    run = train(
        qm9_store.path, tmp_path, *PRETRAIN, *SMALL, *ADAM, "--batch-size", "16", "--max-update", "24", "--lr", "3e-3", *options.split()
    )
    all_finite(run)
    first, last = run.logged("train_inner")[0], run.logged("train_inner")[-1]
    assert {key.removesuffix("_loss") for key in first if key.endswith("_loss")} - {"weighted"} == losses
    assert float(first["loss"]) == pytest.approx(sum(float(first[f"{loss}_loss"]) for loss in losses), abs=3e-4)
    assert float(last["loss"]) < float(first["loss"])
    heads = set(load(tmp_path / "checkpoint_last.pt").config.heads)
    assert heads == {{"noisy_nodes": "noise"}.get(loss, loss) for loss in losses}


@pytest.mark.parametrize(
    "budget", [("--max-tokens", "200"), ("--max-pairs", "2500"), ("--batch-size", "9"), ("--batch-size", "7", "--max-tokens", "90")]
)
def test_every_molecule_is_counted_whatever_fills_a_batch(qm9_store, tmp_path, budget):
    """A number of molecules that no batch size divides; three batches to an update."""
    run = train(qm9_store.path, tmp_path, *PRETRAIN, *SMALL, *ADAM, *budget, "--update-freq", "3", "--max-epoch", "2", "--no-save")
    size = {name: info.molecules for name, info in qm9_store.manifest.splits.items()}
    assert run.column("train", "train_molecules") == [size["train"]] * 2
    assert run.column("valid", "valid_molecules") == [size["valid"]] * 2
    assert sum(run.column("train_inner", "molecules")) == 2 * size["train"]


def test_blends_are_drawn_anew_each_epoch_and_always_the_same_in_validation(qm9_store, tmp_path):
    """Nothing is learnt (learning rate 0), nothing dropped, one batch holds all: only the draws can change a loss."""
    options = ("--lr", "0", "--batch-size", "1000", "--max-epoch", "3", *NO_DROPOUT)
    run = train(qm9_store.path, tmp_path / "one", *PRETRAIN, *SMALL, *ADAM, *options)
    for loss in PRETRAIN_LOSSES:
        assert len(set(run.column("train", f"train_{loss}"))) == 3, loss
        assert len(set(run.column("valid", f"valid_{loss}"))) == 1
    other = train(qm9_store.path, tmp_path / "other", *PRETRAIN, *SMALL, *ADAM, *options)
    assert other.column("train", "train_loss") == run.column("train", "train_loss")


def test_best_checkpoint_is_that_of_the_best_validation_epoch(qm9_store, tmp_path):
    options = ("--targets", "gap", "--regression-loss", "mae", "--batch-size", "16", "--max-epoch", "5", "--lr", "3e-2")
    run = train(qm9_store.path, tmp_path, *FINETUNE, *SMALL, *ADAM, *options)
    scores = run.column("valid", "valid_mae")
    assert len(set(scores)) == 5
    best = scores.index(min(scores)) + 1
    state = read_torch_file(tmp_path / "checkpoint_best.pt")["extra_state"]
    assert state["train_iterator"]["epoch"] == best + (1 if state["train_iterator"].get("iterations_in_epoch", 0) == 0 else 0)
    assert load(tmp_path / "checkpoint_best.pt").about["updates"] == 8 * best
    assert float(run.logged("valid")[-1]["valid_best_mae"]) == pytest.approx(min(scores), rel=1e-3)


@pytest.mark.parametrize(
    ("task", "options", "metric"),
    [
        (FINETUNE, ("--targets", "y"), "rmse"),
        (FINETUNE, ("--targets", "y", "--regression-loss", "mae"), "mae"),
        (FINETUNE, ("--targets", "c"), "roc_auc"),
        (PRETRAIN, (), "loss"),
    ],
)
def test_what_selects_the_best_checkpoint(awkward_store, tmp_path, task, options, metric):
    run = train(awkward_store.path, tmp_path, *task, *SMALL, *ADAM, *options, "--batch-size", "20", "--max-epoch", "3")
    scores = run.column("valid", f"valid_{metric}")
    best = max(scores) if metric == "roc_auc" else min(scores)
    assert float(run.logged("valid")[-1][f"valid_best_{metric}"]) == pytest.approx(best, rel=1e-3)


def test_a_checkpoint_loads_without_running_code_and_says_what_it_is(qm9_store, tmp_path):
    options = ("--targets", "homo,gap", "--inputs", "2d+3d", "--lr-scheduler", "cosine", "--warmup-updates", "1", "--max-update", "3")
    train(qm9_store.path, tmp_path, *FINETUNE, *SMALL, *ADAM, "--batch-size", "16", *options)
    torch.load(tmp_path / "checkpoint_last.pt", weights_only=True)
    found = load(tmp_path / "checkpoint_last.pt")
    assert found.finetuned.targets == ("homo", "gap")
    assert found.finetuned.units == ("meV", "meV")
    assert found.finetuned.inputs == "2d+3d"
    statistics = qm9_store.manifest.statistics["train"]
    columns = [qm9_store.manifest.label_index(name) for name in ("homo", "gap")]
    assert found.finetuned.mean == pytest.approx([statistics[c].mean for c in columns])
    assert found.finetuned.std == pytest.approx([statistics[c].std for c in columns])


def test_bfloat16_stays_close_to_float32(qm9_store, tmp_path):
    """Bfloat16 has 8 bits of mantissa: losses of a few updates agree within a percent or two, and are not the same."""
    options = (*PRETRAIN, *SMALL, *ADAM, "--batch-size", "32", "--max-update", "6", "--attention-dropout", "0", "--activation-dropout", "0")
    options = (*options, "--drop-path", "0")
    single = train(qm9_store.path, tmp_path / "fp32", *options)
    half = train(qm9_store.path, tmp_path / "bf16", *options, "--bf16")
    weight = half.weights()["encoder.blocks.0.qkv.weight"]
    assert weight.dtype == torch.float32
    assert not torch.equal(weight, weight.bfloat16().float()), "saved are the float32 weights that Adam goes by"
    for loss in PRETRAIN_LOSSES:
        a, b = single.column("train_inner", loss), half.column("train_inner", loss)
        assert b == pytest.approx(a, rel=0.04), loss
    assert single.column("train_inner", "loss") != half.column("train_inner", "loss")


def test_tensorboard_holds_what_the_log_holds(qm9_store, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    boards = tmp_path / "boards"
    options = ("--batch-size", "32", "--max-epoch", "2", "--tensorboard-logdir", str(boards))
    run = train(qm9_store.path, tmp_path, *PRETRAIN, *SMALL, *ADAM, *options)
    found = EventAccumulator(str(boards / "train_inner"))
    found.Reload()
    tags = set(found.Tags()["scalars"])
    assert {*PRETRAIN_LOSSES, "loss", "spd_information", "edge_information", "mols_per_second", "atoms_per_second", "gnorm"} <= tags
    assert [event.value for event in found.Scalars("spd_loss")] == pytest.approx(run.column("train_inner", "spd_loss"), abs=1e-4)
    valid = EventAccumulator(str(boards / "valid"))
    valid.Reload()
    assert len(valid.Scalars("spd_loss")) == 2


def test_information_is_entropy_minus_cross_entropy(qm9_store, tmp_path):
    """An untrained model knows nothing; one that has learnt how frequent classes are reaches about 0, and more from its input."""
    run = train(qm9_store.path, tmp_path, *PRETRAIN, *SMALL, *ADAM, "--batch-size", "16", "--max-update", "60", "--lr", "5e-3", "--no-save")
    first, last = run.column("train_inner", "spd_information")[0], run.column("train_inner", "spd_information")[-1]
    assert first < 0 < last < math.log(11)
    entropy = [a + b for a, b in zip(run.column("valid", "valid_spd_information"), run.column("valid", "valid_spd_loss"))]
    assert max(entropy) - min(entropy) < 3e-4, "the entropy of the validation split's distances is always the same"


def test_a_small_set_is_learnt(qm9_store, tmp_path):
    """Polarisability grows with the number of atoms; the mean predictor's scaled loss is 1."""
    options = ("--targets", "alpha", "--inputs", "2d", "--batch-size", "32", "--max-update", "120", "--lr", "1e-3")
    run = train(qm9_store.path, tmp_path, *FINETUNE, *ADAM, *options, "--no-save")
    losses = run.column("train", "train_loss")
    assert losses[0] == pytest.approx(1, abs=0.15)
    assert losses[-1] < 0.8


def test_random_modality_and_3d_inputs(qm9_store, tmp_path):
    for name, options in {"random": ("--inputs", "2d+3d", "--random-modality"), "3d": ("--inputs", "3d")}.items():
        common = ("--targets", "gap", "--batch-size", "16", "--max-epoch", "1", "--no-save")
        all_finite(train(qm9_store.path, tmp_path / name, *FINETUNE, *SMALL, *ADAM, *common, *options))


def test_finetuning_begins_from_pretrained_weights(qm9_store, tmp_path):
    """Body from the checkpoint, heads anew; a learning rate of 0 leaves it so. The other way round too."""
    common = (*SMALL, *ADAM, "--batch-size", "32", "--max-update", "2")
    pretrained = train(qm9_store.path, tmp_path / "pre", *PRETRAIN, *common)
    source = tmp_path / "pre" / "checkpoint_last.pt"
    options = ("--targets", "gap", "--finetune-from-model", str(source), "--lr", "0")
    for extra in ((), ("--bf16",)):
        tuned = train(qm9_store.path, tmp_path / f"fine{len(extra)}", *FINETUNE, *common, *options, *extra)
        ours, theirs = tuned.weights(), pretrained.weights()
        body = [name for name in theirs if not name.startswith("heads.")]
        assert set(ours) == {*body, *(name for name in ours if name.startswith("heads.property."))}
        for name in body:
            assert torch.equal(ours[name].float(), theirs[name].bfloat16().float() if extra else theirs[name]), name


def test_shipped_sizes_are_what_their_names_say(qm9_store):
    for name, preset in PRESETS.items():
        parser = fairseq_options.get_training_parser()
        words = [str(qm9_store.path), "--user-dir", "moleblend_fs", *PRETRAIN[:4], "--arch", f"moleblend_{name}", "--optimizer", "adam"]
        parsed = fairseq_options.parse_args_and_arch(parser, input_args=words)
        assert {key: getattr(parsed, key) for key in preset} == preset
        parsed = fairseq_options.parse_args_and_arch(fairseq_options.get_training_parser(), input_args=[*words, "--layers", "2"])
        assert (parsed.layers, parsed.embed_dim) == (2, preset["embed_dim"])


def test_a_store_that_has_nothing_to_learn_from_is_told(tmp_path):
    """Its loss is 0, the least that there is: no atom of these has another five bonds away."""
    (tmp_path / "short.smi").write_text("".join(f"{'C' * k}{x}\n" for k in range(1, 5) for x in ("O", "N", "F", "Cl", "Br")))
    store = preprocessed(tmp_path / "store", "smiles", str(tmp_path / "short.smi"), "--split", "random")
    words = ("--task", "moleblend", "--criterion", "pretrain", "--objective", "context_pred", "--arch", "moleblend_tiny", *SMALL, *ADAM)
    run = train(store.path, tmp_path / "run", *words, "--batch-size", "8", "--max-update", "2")
    assert run.code == 0
    for split in ("training", "validation"):
        assert run.output.count(f"no molecule of {split} so far has anything that context_pred learns from") == 1


def test_arguments_given_later_win(tmp_path):
    assert arguments("s", tmp_path, ["--seed", "7"])[-2:] == ["--seed", "7"]
