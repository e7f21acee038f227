"""What is said of a checkpoint: where it lies, what it is, and how it differs from the model that is to take it."""

from dataclasses import replace

import pytest
import torch

from moleblend_fs.checkpoint import write
from moleblend_fs.checkpoint.read import Checkpoint, check_architecture, describe, load, load_weights
from moleblend_fs.checkpoint.write import save
from moleblend_fs.errors import UserError
from moleblend_fs.model.config import PRESETS, ModelConfig
from moleblend_fs.model.moleblend import MoleBlend

TINY = ModelConfig(**{**PRESETS["tiny"], "layers": 2, "embed_dim": 16}, heads=("spd",))


def test_where_it_comes_from_goes_along(tmp_path):
    model = MoleBlend(TINY)
    save(Checkpoint(config=TINY, weights=model.state_dict(), about={"of": "me", "file": "where it was"}), tmp_path / "folder")
    assert load(tmp_path / "folder").about == {"of": "me", "file": str(tmp_path / "folder")}
    content = {
        "model": {f"model.{name}": value for name, value in model.state_dict().items()},
        "extra_state": {"moleblend": describe(TINY, None, None)},
        "optimizer_history": [{"num_updates": 3}, {"num_updates": 7}],
    }
    write.save_torch_file(content, tmp_path / "x.pt")
    found = load(tmp_path / "x.pt")
    assert found.about == {"file": str(tmp_path / "x.pt"), "format": "fairseq", "updates": 7}
    assert (found.config, found.finetuned, found.trained_on) == (TINY, None, None)
    assert all(torch.equal(found.weights[name], value) for name, value in model.state_dict().items())


def test_another_encoder_is_told_with_the_options_that_fit():
    found = Checkpoint(config=TINY, weights={}, about={"file": "FILE"})
    check_architecture(replace(TINY, dropout=0.3, heads=("edge",)), found)
    with pytest.raises(UserError) as refusal:
        check_architecture(replace(TINY, layers=3, ffn_dim=128), found)
    assert str(refusal.value) == (
        "FILE: a checkpoint of another architecture: --layers 2, --ffn-dim 64 there, 3, 128 here; "
        "what fits is --arch moleblend_tiny --layers 2 --embed-dim 16"
    )
    found.about = {}
    with pytest.raises(UserError, match=r"^checkpoint: a checkpoint of another architecture"):
        check_architecture(replace(TINY, layers=3), found)


def test_sizes_of_pretrainings_heads_matter_where_both_have_one_of_them():
    """The property head has a size of its own, which is begun anew."""
    found = Checkpoint(config=replace(TINY, heads=("spd", "property")), weights={}, about={"file": "FILE"})
    for heads in (("property",), ("edge",), ("edge", "property")):
        check_architecture(replace(TINY, pair_dim=99, heads=heads), found)
    with pytest.raises(UserError, match=r"--pair-dim 16 there, 99 here; what fits is .* --layers 2 --embed-dim 16"):
        check_architecture(replace(TINY, pair_dim=99, heads=("spd",)), found)


def test_what_a_model_lacks_is_counted_or_refused():
    model, weights = MoleBlend(TINY), dict(MoleBlend(TINY).state_dict())
    first = next(iter(weights))
    del weights[first]
    assert load_weights(model, {**weights, "of something else": torch.zeros(1)}, where="FILE", strict=False) == [first]
    assert all(torch.equal(model.state_dict()[name], value) for name, value in weights.items())
    with pytest.raises(UserError, match=f"^FILE: lacks 1 parameter of this model, e.g. {first}$"):
        load_weights(model, weights, where="FILE", strict=True)
