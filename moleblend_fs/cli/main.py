"""The `moleblend` command: one sub-command a module, imported only when it is called for."""

import contextlib
import errno
import io
import os
import sys

from moleblend_fs import __version__
from moleblend_fs.cli.parser import Parser
from moleblend_fs.cli.standard_output import GONE, given_up, import_for_good, loudly, none_closed
from moleblend_fs.errors import UserError
from moleblend_fs.files import told

COMMANDS = {
    "preprocess": "molecules from PCQM4Mv2, QM9, MoleculeNet, MOSES, Uni-Mol or your own files -> store",
    "preprocess-sidecar": "compute descriptors, fragments or contexts of a store's molecules, for objectives that learn them",
    "prototypes": "prototypes of a store's molecules by a pretrained model, for the second stage of --objective graphlog",
    "tokenize": "codes of a store's atoms by a trained tokenizer, for the second stage of --objective mole_bert",
    "merge": "put shards of a large source, made by preprocess --shard I/N, together to a store",
    "overlap": "count the molecules that stores have in common: the same ones, the same skeletons, near neighbours",
    "train": "fairseq-train with our tasks, models and criterions, from any folder; all of its options",
    "finetune": "from a table of molecules and measured values to models, predictions, scores and a report",
    "tune": "search for settings of finetune on validation molecules, then train with them and score the test molecules once",
    "inspect": "show what is inside a store",
    "evaluate": "score a finetuned checkpoint on a split of a store",
    "predict": "predict properties of molecules in tables, lists, SD files, stores or on the command line, as CSV",
    "embed": "representations of molecules, or of their atoms, as arrays or CSV",
    "export": "write a model as an ONNX file, which predicts without torch",
    "explain": "what predictions rest on: atoms and relations, as a page, a picture or a table",
    "convert": "read a checkpoint of the reference release and write ours (safetensors + JSON)",
    "check-golden": "compare the model with a file of reference outputs",
    "compare": "tell which of several methods is better on the same splits, by how much, and how sure that is",
    "report": "draw the curves and tables of finished runs as one HTML page",
    "doctor": "show versions, devices, which implementation of each op is active, and what is missing",
}

EXTRA_OF = {
    **dict.fromkeys(("torch", "fairseq", "fairseq_cli", "omegaconf", "lmdb", "safetensors", "sklearn", "scipy", "tqdm"), "train"),
    **dict.fromkeys(("rdkit", "ogb", "pandas"), "chem"),
    "captum": "explain",
    "optuna": "tune",
    "matplotlib": "report",
    "onnxruntime": "onnx",
    "onnx": "export",
}
"""Package that a command needs -> the extra of setup.py that brings it."""


def main(argv: list[str] | None = None) -> int:
    """Run a sub-command; 0 on success, 1 where a check failed, 2 for a user's mistake (a message, no traceback)."""
    argv = sys.argv[1:] if argv is None else argv
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read when torch is loaded: threads that wait leave their cores to others
    name = " ".join(["moleblend", *(word for word in argv[:1] if word in COMMANDS)])
    none_closed()
    loudly()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file's name need not be text
    try:
        try:
            code = run(argv)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # here, where a full disk can still be reported
    except UserError as error:
        return end_with(f"{name}: {error}")
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRA_OF:
            raise
        return end_with(f"{name}: needs the package {package}, which is not installed: pip install 'moleblend-fs[{EXTRA_OF[package]}]'")
    except OSError as error:
        if error.errno == errno.EPIPE:
            return end_with(None, code=GONE)
        where = f"{error.filename}: " if error.filename is not None else ""
        return end_with(f"{name}: {where}{told(error)}")
    except MemoryError as error:
        return end_with(f"{name}: out of memory{f' ({error})' if str(error) else ''}; free some, or raise the limit (ulimit -v)")
    except RuntimeError as error:
        if not any(words in str(error) for words in ("can't allocate memory", "out of memory")):  # torch's, of the CPU and of GPUs
            raise
        return end_with(f"{name}: out of memory; free some, or use a smaller --max-tokens or fewer --workers")
    except KeyboardInterrupt:
        return end_with(f"{name}: interrupted", code=130)
    return code


def run(argv: list[str]) -> int:
    """Find the sub-command's module and run it."""
    if argv[:1] == ["train"]:
        from moleblend_fs.cli import train  # whose options fairseq's parser reads

        train.run(argv[1:])
    parser = Parser(prog="moleblend", description="MoleBlend: data, checkpoints and reports around fairseq-train.")
    parser.add_argument("--version", action="version", version=f"moleblend_fs {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    chosen = next((word for word in argv if not word.startswith("-")), None)
    run_command = None
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary)
        if name == chosen:
            try:
                module = import_for_good(f"moleblend_fs.cli.{name.replace('-', '_')}")
            except ModuleNotFoundError:
                raise
            except ImportError as error:
                raise UserError(
                    f"a library cannot be loaded ({error}); is memory limited (ulimit -v), or the installation damaged?"
                ) from error
            module.add_arguments(command)
            run_command = module.run
    arguments = parser.parse_args(argv)
    assert run_command is not None
    return run_command(arguments)


def end_with(message: str | None, code: int = 2) -> int:
    """Print a message on stderr, give up what stdout still holds if it cannot be written, and return the exit code."""
    if message is not None:
        with contextlib.suppress(OSError):
            print(message, file=sys.stderr)
    given_up()
    return code


if __name__ == "__main__":
    sys.exit(main())
