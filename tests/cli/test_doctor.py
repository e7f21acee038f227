"""`moleblend doctor`: one line for each thing that matters."""

import importlib.metadata
import re

from moleblend_fs.cli.doctor import PACKAGES
from moleblend_fs.cli.main import main
from tests.docs.blocks import ROOT


def test_versions_devices_and_ops(capsys):
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split()[:2] == ["torch", importlib.metadata.version("torch")] for line in lines)
    assert any(line.startswith("shortest paths") and "compiled" in line for line in lines)
    assert any(line.startswith("cuda") for line in lines)
    assert sum(line.startswith("bfloat16") for line in lines) == 1
    for op in ("relation_bias", "attention", "pair_projection", "residual_norm", "gelu_dropout"):
        assert sum(line.startswith(f"op {op}") for line in lines) == 1


def test_a_missing_package_is_named_with_what_it_is_for(capsys, monkeypatch):
    installed = importlib.metadata.version

    def version(name: str) -> str:
        if name in ("rdkit", "lmdb"):
            raise importlib.metadata.PackageNotFoundError(name)
        return installed(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert main(["doctor"]) == 1, "training needs lmdb"
    out = capsys.readouterr().out
    assert "rdkit            missing: preprocess" in out
    assert "lmdb             missing: stores" in out


def test_what_several_processes_would_use(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("MOLEBLEND_PREEMPTED_EXIT", "85")
    main(["doctor"])
    out = capsys.readouterr().out
    assert "rank 3 of 8" in out
    assert "exit code 85" in out
    assert "DeepSpeed ZeRO" in out


def test_every_package_that_users_install_is_listed():
    """Those of setup.py, but for the extras of developers and tqdm, without which no command begins."""
    of_users = re.sub(r'^    "(docs|dev)": \[.*?\],$', "", (ROOT / "setup.py").read_text(), flags=re.DOTALL | re.MULTILINE)
    required = set(re.findall(r'"([\w-]+)>=', of_users))
    assert required - {"tqdm"} == set(PACKAGES) - {"triton"}
