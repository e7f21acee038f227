"""Every command block of README, CONTRIBUTING, docs and examples: run on small data, or, where that takes a GPU, Slurm, several hosts or
hours, found out what it would start, and its words handed to the real parsers. A command that is not declared below fails."""

import contextlib
import random
import runpy
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from moleblend_fs.checkpoint.read import read_torch_file
from moleblend_fs.cli.train import USER_DIR, fairseq_train, with_user_dir
from moleblend_fs.errors import UserError
from tests.docs.blocks import ROOT, Block, blocks, pages
from tests.docs.running import bash, check, really

BLOCKS = [block for page in pages() for block in blocks(page)]
QM9 = "qm9pack", "qm9pack --limit 140 --workers 1"


@dataclass(frozen=True)
class Run:
    """A command that is run: what of it is replaced, so that it ends soon and finds its data. `before` is run before it."""

    replaced: tuple[tuple[str, str], ...] = ()
    before: str = ""


@dataclass(frozen=True)
class Check:
    """A command whose words are parsed, and why it is not run."""

    why: str
    replaced: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Skip:
    """No command, or none of ours, and why."""

    why: str


DRAWING, LAYOUT = Skip("a drawing"), Skip("names of files")
HOSTS, SLURM = "needs GPUs or several hosts", "needs Slurm"
WHOLE = "all of the data, and minutes to days"
TESTS = Check("tests that run tests")
STORE = ("STORE OPTION...", "STORE --arch moleblend_tiny --task moleblend --criterion blend_then_predict")
PRETRAIN = "--task moleblend --criterion blend_then_predict --arch moleblend_tiny"
UNTRAINED = (
    'python -c "from pathlib import Path; from tests.inference.untrained_models import untrained; '
    "Path('runs/untrained').exists() or untrained(Path('runs/untrained'), width=64)\""
)
SCORES = (
    "printf 'method,dataset,fold,metric,value\\nours,logS,0,rmse,1\\nours,logS,1,rmse,2\\n' > scores.csv; "
    "printf 'dataset,fold,metric,value\\nlogS,0,rmse,1.5\\nlogS,1,rmse,2.6\\n' > other.csv"
)
TWO_FOLDERS = "; ".join(
    f"moleblend finetune mine.csv runs/{name} --target logS --folds 2 --arch tiny --weights none --epochs {epochs} --ensemble 1"
    for name, epochs in (("small", 1), ("base", 2))
)

DECLARED: dict[str, dict[str, Run | Check | Skip]] = {
    "README.md": {
        "./scripts/quickstart.sh": Skip("tests/scripts/test_quickstart.py runs it"),
        "./scripts/test.sh": TESTS,
        "molecule ──>": DRAWING,
        "moleblend finetune mine.csv": Run((("--target logS", "--target logS --split random --epochs 1 --ensemble 1"),)),
        "moleblend tune mine.csv": Check("tests/tuning runs it"),
        "moleblend explain runs/bbbp": Check("docs/predictions.md's, which is run"),
        "moleblend preprocess qm9 qm9pack": Run((QM9,)),
        "moleblend preprocess moses molsets": Run((("molsets", "moses.csv"), ("100000", "20"))),
        "moleblend preprocess moleculenet FOLDER/": Run((("FOLDER", "."),)),
        "moleblend preprocess pcqm4mv2 FOLDER": Run((("FOLDER", "pcqm"),)),
        "moleblend preprocess csv mine.csv": Run(),
        "moleblend inspect runs/data/bbbp": Run(),
        "moleblend train runs/data/qm9": Run((("-updates 60 ", "-updates 1 "), ("-update 600", "-update 2"), ("-size 128", "-size 16"))),
        "moleblend train runs/data/bbbp": Run((("-updates 200", "-updates 1"), ("-epoch 40", "-epoch 1"), ("-update 2040", "-update 3"))),
        "moleblend evaluate runs/bbbp": Run(),
        "moleblend predict runs/bbbp": Run(),
        "moleblend export runs/bbbp": Run(),
        "moleblend report runs": Run(),
        "moleblend compare a=runs/mine": Check("docs/compare.md's, which is run"),
    },
    "CONTRIBUTING.md": {
        "./scripts/test.sh": TESTS,
        "python scripts/notebooks.py": Skip("tests/docs/test_notebooks.py runs them"),
        "./scripts/docs.sh": Skip("another environment; .ci/run builds the site"),
        "./.ci/run": Skip("it runs all tests; tests/scripts/test_scripts.py parses it"),
        "moleblend check-golden": Check("tests/inference/test_golden.py runs it"),
        "pip install -c constraints.txt": Skip("the network"),
        "nice -n 19 python scripts/mutation.py": Skip("minutes; tests/scripts/test_mutation.py looks at what it is to run"),
    },
    "docs/architecture.md": {"file ──source──>": DRAWING},
    "docs/compare.md": {
        "moleblend compare small=runs/small": Run(before=TWO_FOLDERS),
        "moleblend compare scores.csv": Run((("scores.csv", "scores.csv forest=other.csv"),), before=SCORES),
    },
    "docs/data.md": {
        "moleblend preprocess SOURCE IN OUT": Run((("SOURCE IN OUT [--workers N] [options]", "csv mine.csv runs/data/again --workers 1"),)),
        "moleblend preprocess moses molsets": Run((("molsets", "moses.csv"), ("100000", "20"), ("esol.csv bbbp.csv", "mine.csv"))),
        "moleblend overlap": Run((("runs/data/bbbp", "runs/data/again"),)),
        "moleblend preprocess-sidecar": Run((("STORE --workers 8", "runs/data/again --workers 1"),)),
        "STORE/records.lmdb": LAYOUT,
    },
    "docs/finetune.md": {
        "moleblend finetune mine.csv": Check("README's, which is run", ()),
        "moleblend convert runs/pretrain": Check("tests/checkpoint/test_weights_by_name.py runs it"),
        "MOLEBLEND_WEIGHTS=runs/weights moleblend": Check(
            "tests/checkpoint/test_weights_by_name.py and tests/finetune/test_starting_weights.py run them"
        ),
    },
    "docs/launching.md": {
        "moleblend finetune mine.csv": Check(SLURM),
        "moleblend tune mine.csv": Check(SLURM),
        "PROCS=8 ./scripts/launch.sh": Check(HOSTS, (STORE,)),
        "NODES=2 PROCS=8": Check(HOSTS, (STORE,)),
        "NODES=1:2 PROCS=8": Check(HOSTS, (STORE,)),
        "LAUNCHER=deepspeed NODES=2": Check(HOSTS, (STORE,)),
        "moleblend preprocess pcqm4mv2 FOLDER STORE --shard": Run(
            (("FOLDER STORE --shard 0/8", "pcqm parts --shard 0/2"),), before="moleblend preprocess pcqm4mv2 pcqm parts --shard 1/2"
        ),
        "moleblend merge STORE": Run((("STORE", "parts"),)),
        "./scripts/test.sh": TESTS,
    },
    "docs/performance.md": {
        "python -m benchmarks NAME": Check(
            WHOLE, (("NAME [--device cpu|cuda] [--json FILE] [--no-save]", "--device cuda --json x --no-save step"),)
        ),
        "NAME:": Skip("explains NAME"),
        "./scripts/gpu_check.sh": Skip("needs a GPU; tests/scripts/test_gpu_check.py rehearses it"),
    },
    "docs/predictions.md": {
        "moleblend predict MODEL INPUT": Run((("MODEL INPUT [OUT]", "runs/untrained mine.csv runs/mine_0.csv"),), before=UNTRAINED),
        "moleblend predict runs/bbbp": Run((("runs/bbbp/checkpoint_best.pt", "runs/untrained"),)),
        "moleblend export runs/bbbp": Run((("runs/bbbp/checkpoint_best.pt", "runs/untrained"),)),
        "moleblend predict runs/bbbp.onnx": Run(),
        "moleblend export runs/pretrain": Check("README's checkpoint, and the one above is run"),
        "moleblend embed runs/encoder.onnx": Run((("runs/encoder.onnx", "runs/bbbp.onnx"),)),
        "moleblend explain runs/bbbp": Run((("runs/bbbp/checkpoint_best.pt", "runs/untrained"),)),
        "moleblend embed runs/pretrain": Run((("runs/pretrain/checkpoint_best.pt", "runs/untrained"),)),
    },
    "docs/reliability.md": {
        "moleblend train STORE ...": Check(
            "tests/distributed run it",
            (("...", PRETRAIN), ("[--zero-offload cpu] [--deepspeed-config FILE]", "--zero-offload cpu --deepspeed-config x")),
        ),
        "checkpoint_last.pt": LAYOUT,
        "moleblend preprocess qm9": Run((("--limit 116", "--limit 116 --workers 1"),)),
        "python -m tests.support.drill": Check("kills training for many minutes"),
    },
    "docs/objectives.md": {
        "moleblend train STORE --task moleblend": Check("tests/distributed/test_objectives.py trains all of them", (("OPTION...", ""),)),
        "moleblend train STORE --task moleblend --criterion pretrain --objective graphlog": Check(
            "tests/objectives/test_graphlog.py runs both stages", (("OPTION...", "--arch moleblend_tiny"),)
        ),
        "moleblend prototypes": Check("tests/objectives/test_graphlog.py runs it"),
        **{
            f"moleblend {command}": Check("tests/objectives/test_mole_bert.py runs both stages", (("OPTION...", "--arch moleblend_tiny"),))
            for command in (
                "train STORE --task moleblend --criterion pretrain --objective mole_bert_tokenizer",
                "train STORE --task moleblend --criterion pretrain --objective mole_bert --save-dir",
            )
        },
        "moleblend tokenize": Check("tests/objectives/test_mole_bert.py runs it"),
    },
    "docs/scaling.md": {
        "python -m benchmarks scaling --measure": Check("ten minutes"),
        "python -m benchmarks scaling --compare": Check("ten minutes"),
        "python -m benchmarks scaling --links": Check(HOSTS),
        "python -m benchmarks scaling": Check("tests/benchmarks/test_scaling.py computes the tables"),
        "python -m benchmarks.timing": Check(HOSTS, (("...", PRETRAIN),)),
        "torchrun --nproc-per-node 8": Check(HOSTS),
        "./scripts/test.sh": TESTS,
    },
    "docs/tune.md": {
        "moleblend tune mine.csv": Check("tests/tuning runs it"),
    },
    "docs/weights.md": {
        "DATA=data/moleculenet ./scripts/gpu_pretrain.sh --pack": Skip(
            "packs wheels of another Python; tests/scripts/test_gpu_pretrain.py rehearses the rest"
        ),
        "ARCH=small ./scripts/gpu_pretrain.sh": Skip("needs a GPU; tests/scripts/test_gpu_pretrain.py rehearses it"),
        "moleblend inspect small": Run(),
        "moleblend embed small": Run(),
    },
    "docs/training.md": {
        "moleblend preprocess-sidecar": Check("tests/objectives/test_descriptors.py runs it"),
        "moleblend train STORE": Check("tests/objectives/test_descriptors.py runs it"),
    },
    "docs/start/chemist.md": {
        "moleblend finetune mine.csv": Check("README's, which is run"),
        "moleblend predict runs/mine others.csv": Run((("runs/mine", "runs/untrained"), ("others", "mine")), before=UNTRAINED),
        "moleblend predict runs/mine --smiles": Run((("runs/mine", "runs/untrained"),)),
    },
    "docs/start/researcher.md": {
        "moleblend preprocess qm9 qm9pack": Check("README's, which is run"),
        "moleblend train runs/data/qm9": Check("README's, which is run"),
        "moleblend finetune mine.csv": Check("tests/finetune start from weights"),
    },
    "docs/start/cluster.md": {"pip install -c constraints.txt": Skip("the network")},
    "examples/evidence/README.md": {
        "DATA=data/moleculenet ./examples/evidence/run.sh --scale ci": Skip("tests/scripts/test_evidence.py runs it"),
        "DATA=data/moleculenet WEIGHTS=": Run((("small mine=runs/pretrain/checkpoint_best.pt", "mine=mine.csv"),)),
        "DATA=data/moleculenet OUT=runs/evidence/full": Run(),
        "DATA=data/moleculenet OUT=runs/evidence/box": Skip("the MoleculeNet files; tests/scripts/test_evidence.py restores and publishes"),
        "moleblend compare runs/evidence": Check("docs/compare.md's, which is run"),
    },
    "examples/finetune_moleculenet/README.md": {
        "DATA=FOLDER ./examples/finetune_moleculenet/run.sh bbbp": Run(
            (("DATA=FOLDER", "DATA=. SEEDS=0 EPOCHS=1 ARCH=tiny PRETRAINED=none"),)
        ),
        "DATA=FOLDER ./examples/finetune_moleculenet/run.sh": Check(WHOLE, (("FOLDER", "."),)),
    },
    "examples/finetune_qm9/README.md": {
        "./examples/finetune_qm9/run.sh": Check(WHOLE),
        "TARGET=mu PRETRAINED=none": Check(WHOLE),
        "ARCH=base UPDATES=600000": Check(WHOLE),
    },
    "examples/notebooks/README.md": {"python scripts/notebooks.py": Skip("tests/docs/test_notebooks.py runs them")},
    "examples/paper/README.md": {
        "DATA=data/moleculenet ./examples/paper/run.sh table3 --scale tiny": Skip("tests/scripts/test_paper_tables.py runs a table"),
        "DATA=data/moleculenet ./examples/paper/run.sh table3 --scale cpu --list": Run(),
        "DATA=data/moleculenet OUT=runs/paper/full": Run(),
    },
    "examples/pcqm4mv2_gap/README.md": {"./examples/pcqm4mv2_gap/run.sh": Check(WHOLE)},
    "examples/pretrain_pcqm4mv2/README.md": {
        "data/pcqm4mv2/": LAYOUT,
        "./examples/pretrain_pcqm4mv2/run.sh": Check(WHOLE, (("./examples", "GPUS=1 ./examples"),)),
        "BATCH=256 GPUS=8": Check(HOSTS),
    },
    "examples/pretrain_box/README.md": {
        "pip install --no-deps molsets": Skip("the network"),
        "DATA=data/moleculenet ./examples/pretrain_box/run.sh": Skip("days"),
        "DATA=data/moleculenet SCALE=tiny ./examples/pretrain_box/run.sh": Skip("tests/scripts/test_pretrain_box.py runs it"),
    },
    "examples/pretrain_qm9/README.md": {
        "pip install -c constraints.txt": Check("the network"),
        "./examples/pretrain_qm9/run.sh": Check(WHOLE),
    },
    "examples/quickstart/README.md": {
        "./scripts/quickstart.sh": Skip("tests/scripts/test_quickstart.py runs it"),
        "./examples/quickstart/run.sh": Check("tests/scripts/test_quickstart.py runs it"),
    },
    "examples/slurm/README.md": {
        "export PARTITION=gpu": Run(),
        "export VENV=": Run(),
        "SHARDS=32": Check(SLURM),
        "STORE=runs/data/pcqm4mv2": Check(SLURM),
        "ZERO=2 ...": Check(SLURM, (("...", "./scripts/slurm/pretrain.sbatch"),)),
        "scancel": Skip("Slurm's own command; tests/cluster run it"),
        "DATA=data/moleculenet": Check(SLURM),
        "./scripts/slurm/collect.sh": Skip("tests/scripts/test_launch.py runs it"),
    },
}
"""Page -> beginning of a command -> what is done with it; the longest beginning counts. Drawings go by their first line."""


def declared(block: Block, command: str) -> Run | Check | Skip | None:
    """What is said of a command; a whole block that is no command goes by its first line."""
    of_page = DECLARED.get(block.page, {})
    whole = next((how for start, how in of_page.items() if how in (DRAWING, LAYOUT) and block.lines[0].startswith(start)), None)
    if whole is not None:
        return whole
    found = [start for start in of_page if command.startswith(start)]
    return of_page[max(found, key=len)] if found else None


def replace_all(command: str, replaced: tuple[tuple[str, str], ...]) -> str:
    for old, new in replaced:
        assert command.count(old) == 1, f"{old!r} is not once in: {command}"
        command = command.replace(old, new)
    return command


def test_every_command_is_declared_and_every_declaration_used():
    missing = [f"{b.page}:{b.line}: {command}" for b in BLOCKS for command in b.commands() if declared(b, command) is None]
    assert not missing, "not declared in this file:\n" + "\n".join(missing)
    used = {(b.page, id(declared(b, command))) for b in BLOCKS for command in b.commands()}
    assert [(page, start) for page, hows in DECLARED.items() for start, how in hows.items() if (page, id(how)) not in used] == []


def molecules(count: int, seed: int) -> list[str]:
    """Distinct drug-like SMILES with a few scaffolds."""
    generator = random.Random(seed)
    rings = ["c1ccccc1", "c1ccncc1", "C1CCCCC1", "c1ccsc1", "C1CCNCC1", "c1ccc2ccccc2c1"]
    chains = ["C", "CC", "OCC", "NCC", "OC", "OC(=O)C", "NC(=O)C", "FC", "ClC", "N#CC", "CCC", "COC"]
    found: dict[str, None] = {}
    while len(found) < count:
        found[generator.choice(chains) + generator.choice(["", "C", "O"]) + generator.choice(rings)] = None
    return list(found)


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """A reader's folder in which the commands run."""
    return readers_folder(tmp_path_factory.mktemp("reader"))


@pytest.fixture(scope="session")
def unused(tmp_path_factory) -> Path:
    """Another one, in which none has run."""
    return readers_folder(tmp_path_factory.mktemp("unused"))


def readers_folder(path: Path) -> Path:
    """What the clone holds, and small data under the names that the pages give them."""
    for entry in ROOT.iterdir():
        if entry.name not in (".git", ".venv", "build", "runs"):
            (path / entry.name).symlink_to(entry)
    smiles = molecules(60, seed=1)
    rows = [f"{i},name{i},{i % 2},{s}" for i, s in enumerate(smiles)]
    (path / "bbbp.csv").write_text("num,name,p_np,smiles\n" + "\n".join(rows) + "\n")
    bash("gzip -k bbbp.csv", path)
    (path / "mine.csv").write_text("smiles,logS\n" + "".join(f"{s},{i / 7 - 3}\n" for i, s in enumerate(smiles[:30])))
    (path / "moses.csv").write_text("SMILES\n" + "".join(f"{s}\n" for s in smiles))
    pcqm4mv2(path / "pcqm", smiles[:40])
    (path / "hosts").write_text("host1 slots=8\nhost2 slots=8\n")
    for name in ("esol", "tox21"):  # all that the example reads of a store before it trains
        (path / "runs" / "data" / f"{name}_c0").mkdir(parents=True)
        (path / "runs" / "data" / f"{name}_c0" / "manifest.json").write_text('{"splits": {"train": {"molecules": 90}}}')
    return path


def pcqm4mv2(path: Path, smiles: list[str]) -> None:
    """OGB's layout: a table, a split, structures of the training molecules."""
    import gzip

    import torch
    from rdkit import Chem
    from rdkit.Chem import rdDistGeom

    (path / "pcqm4m-v2" / "raw").mkdir(parents=True)
    table = "idx,smiles,homolumogap\n" + "".join(f"{i},{s},{5 + i / 10}\n" for i, s in enumerate(smiles))
    (path / "pcqm4m-v2" / "raw" / "data.csv.gz").write_bytes(gzip.compress(table.encode()))
    ends = {"train": range(0, 30), "valid": range(30, 34), "test-dev": range(34, 37), "test-challenge": range(37, 40)}
    torch.save({name: torch.tensor(list(rows)).numpy() for name, rows in ends.items()}, path / "pcqm4m-v2" / "split_dict.pt")
    with Chem.SDWriter(str(path / "pcqm4m-v2-train.sdf")) as writer:
        for i in ends["train"]:
            molecule = Chem.AddHs(Chem.MolFromSmiles(smiles[i]))
            assert rdDistGeom.EmbedMolecule(molecule, randomSeed=1) == 0
            writer.write(molecule)


RUN = [b for b in BLOCKS if any(isinstance(declared(b, command), Run) for command in b.commands())]


@pytest.mark.slow
@pytest.mark.parametrize("page", dict.fromkeys(b.page for b in RUN))
def test_commands_run(page, folder):
    """In the page's order: later commands read what earlier ones wrote."""
    if page == "examples/finetune_moleculenet/README.md":
        shutil.rmtree(folder / "runs" / "data" / "bbbp_c0", ignore_errors=True)
    for block in (b for b in RUN if b.page == page):
        for command in block.commands():
            how = declared(block, command)
            if isinstance(how, Run):
                if how.before:
                    really(how.before, folder)
                really(replace_all(command, how.replaced), folder)


@pytest.mark.slow
@pytest.mark.parametrize("block", [b for b in BLOCKS if b.python()], ids=lambda b: f"{b.page}:{b.line}")
def test_python_runs(block, folder):
    """In this process; a script of its own, without a guard for its main module, is in tests/sources."""
    (folder / "example.py").write_text(block.python())
    with contextlib.chdir(folder):
        runpy.run_path("example.py")


@pytest.mark.parametrize("page", dict.fromkeys(b.page for b in BLOCKS))
def test_commands_that_are_not_run_would_be_understood(page, unused):
    for block in (b for b in BLOCKS if b.page == page):
        for command in block.commands():
            how = declared(block, command)
            if isinstance(how, Check):
                assert check(replace_all(command, how.replaced), unused) >= 1


@pytest.mark.parametrize(
    "command",
    [
        "moleblend inspect x --no-such",
        "MOLEBLEND_NO_SUCH=1 moleblend inspect x",
        f"./scripts/launch.sh S {PRETRAIN} --no-such 1",
        "UPDATE=3 ./examples/pretrain_qm9/run.sh",
    ],
)
def test_a_wrong_option_or_setting_is_noticed(command, unused):
    with pytest.raises((AssertionError, SystemExit)):
        check(command, unused)


def test_blocks_are_found(tmp_path):
    page = ROOT / "tests" / "docs" / "page.md"
    text = "a\n    no block\n\n    one \\\n        two   # three\n\n    # four\n    five\n\nb\n\n```\nsix\n```\n* c\n"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "read_text", lambda self: text)
        found = blocks(page)
    assert [(block.line, block.commands()) for block in found] == [(4, ["one two", "five"]), (13, ["six"])]


def test_user_dir_is_added_and_ones_own_is_kept():
    ours = ["--user-dir", str(USER_DIR)]
    assert with_user_dir(["s", "--lr", "1"]) == ["s", "--lr", "1", *ours]
    for name in ("moleblend_fs", "./moleblend_fs", "/elsewhere/moleblend_fs/"):
        assert with_user_dir(["--user-dir", name, "s"]) == ["s", *ours]
        assert with_user_dir([f"--user-dir={name}", "s"]) == ["s", *ours]
    assert with_user_dir(["s", "--user-dir", "mine"]) == ["s", "--user-dir", "mine"]
    assert fairseq_train().is_file()


def test_train_without_options_says_what_is_missing():
    from moleblend_fs.cli.main import main
    from moleblend_fs.cli.train import run

    with pytest.raises(UserError, match="give a store and options"):
        run([])
    assert main(["train"]) == 2


@pytest.mark.slow
def test_an_installed_wheel_trains_from_any_folder(qm9_store, tmp_path):
    """The package as pip installs it, before the one in the clone, called where there is no clone."""
    source = tmp_path / "source"
    source.mkdir()
    for name in ("moleblend_fs", "fairseq_plugins"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, source)
    bash("python -m pip install --quiet --no-deps --no-build-isolation --no-index --target installed ./source", tmp_path)
    shutil.rmtree(source)
    options = f"{PRETRAIN} --optimizer adam --lr 1e-3 --batch-size 64 --max-update 1 --num-workers 0"
    start = f"python -c 'import sys; from moleblend_fs.cli.main import main; sys.exit(main())' train '{qm9_store.path}' {options}"
    bash(f"{start} --save-dir out --log-format json --log-file logs/train.log", tmp_path, PYTHONPATH=str(tmp_path / "installed"))
    saved = read_torch_file(tmp_path / "out" / "checkpoint_last.pt")
    assert saved["cfg"]["common"]["user_dir"] == str(tmp_path / "installed" / "moleblend_fs")
    assert (tmp_path / "logs" / "train.log").is_file()
