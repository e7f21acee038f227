"""`moleblend export`: a model as an ONNX file, which predicts without torch."""

import argparse
from pathlib import Path

from moleblend_fs.cli.common import check_output
from moleblend_fs.errors import UserError
from moleblend_fs.files import is_stream

EPILOG = """examples:
  moleblend export runs/logS logS.onnx                          # members, calibration and training molecules in one file
  moleblend export runs/pretrain/checkpoint_best.pt encoder.onnx --inputs 2d
  moleblend predict logS.onnx new.csv                           # where there is: pip install 'moleblend-fs[onnx]'
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = (
        "Write a model as one ONNX file, from which `moleblend predict` gives the same predictions with onnxruntime, rdkit and numpy\n"
        "alone, and `moleblend embed` the same representations. Its outputs are compared with the model's before it is written."
    )
    parser.epilog = EPILOG
    parser.add_argument(
        "model", metavar="MODEL", help="checkpoint, pretrained or finetuned, name of published weights, or a folder of `moleblend finetune`"
    )
    parser.add_argument("output", metavar="OUT.onnx", type=Path, help="file to write")
    parser.add_argument("--inputs", choices=("2d", "3d", "2d+3d"), help="what a pretrained model is to read (default: 2d)")
    parser.add_argument(
        "--no-training-molecules",
        action="store_true",
        help="leave out the SMILES of the training molecules: predictions then tell no similarity to them",
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the file."""
    if arguments.output.suffix.lower() != ".onnx" or is_stream(arguments.output):
        raise UserError(f"{arguments.output}: name a file that ends in .onnx, by which commands know what it is")
    check_output(arguments.output, arguments.model)
    from moleblend_fs.onnx_export.export import export, to_export, told

    what = to_export(arguments.model, inputs=arguments.inputs, training_molecules=not arguments.no_training_molecules)
    about = export(arguments.model, arguments.output, what)
    print(told(arguments.output, about))
    return 0
