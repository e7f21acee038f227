"""What a command lacks is told in one sentence that names the right values."""

import pytest

from tests.fairseq_plugins.runs import PRETRAIN, train, train_command

STEP = ("--optimizer", "adam", "--lr", "1e-3", "--batch-size", "16", "--max-epoch", "1")
TASK, ARCH, CRITERION = ("--task", "moleblend_finetune"), ("--arch", "moleblend_tiny"), ("--criterion", "property_prediction")
ALL = (*TASK, *ARCH, *CRITERION, "--targets", "gap", "--max-update", "1")
COSINE = ("--lr-scheduler", "cosine")
WRONG = {
    "no task": ((*ARCH, *CRITERION), ["--task moleblend (pretraining", "--task moleblend_finetune", "is needed"]),
    "no task, with its options": ((*ARCH, *CRITERION, "--targets", "gap", "--inputs", "2d"), ["--task moleblend_finetune"]),
    "another task": ((*ARCH, *CRITERION, "--task", "language_modeling"), ["--task moleblend_finetune", "not language_modeling"]),
    "no arch": ((*TASK, *CRITERION), ["--arch is needed, one of moleblend_tiny, moleblend_small, moleblend_base"]),
    "another arch": ((*TASK, *CRITERION, "--arch", "lstm"), ["--arch is needed", "moleblend_tiny", "not lstm"]),
    "no criterion": ((*TASK, *ARCH), ["--task moleblend_finetune goes with --criterion property_prediction"]),
    "pretraining's criterion": (
        (*TASK, *ARCH, "--criterion", "blend_then_predict"),
        ["--criterion property_prediction, not blend_then_predict"],
    ),
    "finetuning's criterion": (("--task", "moleblend", *ARCH, *CRITERION), ["--criterion blend_then_predict, not property_prediction"]),
    "neither": (TASK, ["--arch is needed", "--criterion property_prediction"]),
    "no end of cosine": ((*TASK, *ARCH, *CRITERION, *COSINE), ["--lr-scheduler cosine needs --max-update"]),
    "nothing but warm-up": ((*ALL, *COSINE, "--warmup-updates", "1"), ["--warmup-updates 1 leaves no update of --max-update 1"]),
    "no end of a polynomial": ((*ALL, "--lr-scheduler", "polynomial_decay"), ["polynomial_decay needs --total-num-update"]),
    "no top of a triangle": ((*ALL, "--lr-scheduler", "triangular"), ["triangular needs --max-lr"]),
    "structures in training alone": ((*ALL, "--random-modality"), ["--random-modality goes with --inputs 2d+3d, not with 2d;"]),
    "moments in half precision": ((*ALL, "--fp16-adam-stats"), ["--fp16-adam-stats is not offered: moments are kept in float32"]),
    "a target twice": ((*ALL, "--targets", "gap,homo,gap"), ["--targets gap,homo,gap names 'gap' twice"]),
    "an option of another objective": (
        (*PRETRAIN, "--objective", "denoise,infograph", "--noise-loss", "cosine", "--noise-scale", "0.1"),
        ["--noise-scale is an option of blend_then_predict, and --objective denoise,infograph would not heed it; leave it out"],
    ),
    "no number": ((*PRETRAIN, "--spd-weight", "nan"), ["--spd-weight must be a finite number, got nan"]),
    "no such score": (
        (*PRETRAIN, "--best-checkpoint-metric", "spd"),
        ["--best-checkpoint-metric spd: this objective has loss, weighted_loss, spd_loss"],
    ),
    "no stages": ((*ALL, "--lr-scheduler", "tri_stage"), ["tri_stage needs --phase-ratio"]),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_missing(qm9_store, tmp_path, name):
    options, parts = WRONG[name]
    run = train(qm9_store.path, tmp_path, *STEP, *options)
    assert run.code == 2
    said = [line for line in run.output.splitlines() if "error: " in line]
    assert len(said) == 1
    assert said[0].startswith("moleblend: error: ")
    for part in parts:
        assert part in said[0]


@pytest.mark.parametrize(
    "schedule",
    [
        (*COSINE,),
        (*COSINE, "--warmup-updates=2"),
        (*COSINE, "--max-update", "0", "--lr-period-updates=5"),
        ("--lr-scheduler", "inverse_sqrt"),
    ],
)
def test_what_is_there(qm9_store, tmp_path, schedule):
    assert train(qm9_store.path, tmp_path, *STEP, *ALL, *schedule).code == 0


@pytest.mark.slow
@pytest.mark.cold
def test_the_command_itself(qm9_store, tmp_path):
    run = train_command(qm9_store.path, tmp_path, *STEP, *TASK)
    assert run.code == 2
    assert "Traceback" not in run.output
    assert run.output.count("moleblend: error: ") == 1


def test_every_criterion_of_pretraining(qm9_store, tmp_path):
    assert train(qm9_store.path, tmp_path, *STEP, "--task", "moleblend", "--criterion", "pretrain", *ARCH, "--max-update", "1").code == 0
