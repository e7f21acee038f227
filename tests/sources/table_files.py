"""Workbooks and Parquet files for tests."""

import gzip
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest


def frame_file(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> Path:
    """A table, as the name's endings say: .xlsx or .parquet, then perhaps .gz or .zip; skips where the package for it is absent."""
    kinds = [suffix for suffix in path.suffixes if suffix in (".xlsx", ".parquet", ".gz", ".zip")]
    plain = path if len(kinds) == 1 else path.with_name(path.name.removesuffix(kinds[-1]))
    if kinds[0] == ".xlsx":
        book = pytest.importorskip("openpyxl", reason="workbooks need openpyxl").Workbook()
        for row in [header, *rows]:
            book.active.append(list(row))
        book.save(plain)
    else:
        parquet = pytest.importorskip("pyarrow.parquet", reason="Parquet needs pyarrow")
        pyarrow = pytest.importorskip("pyarrow")
        parquet.write_table(pyarrow.table(dict(zip(header, map(list, zip(*rows, strict=True)), strict=True))), plain)
    if kinds[-1] == ".gz":
        path.write_bytes(gzip.compress(plain.read_bytes()))
    elif kinds[-1] == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.write(plain, plain.name)
    return path
