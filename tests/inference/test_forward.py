"""A molecule's numbers are the same bits whatever it is computed with, by however many threads."""

import itertools

import numpy as np
import pytest
import torch

from moleblend_fs.data.batch import collate
from moleblend_fs.data.record import encode
from moleblend_fs.inference.forward import Forward, graph_tokens
from moleblend_fs.model.config import PRESETS, ModelConfig
from moleblend_fs.model.moleblend import MoleBlend
from moleblend_fs.ops import linear
from tests.model.molecules import AWKWARD, ORDINARY, graph

SMILES = [*ORDINARY, *AWKWARD, "C" * 40, "c1ccc2ccccc2c1CCNC(=O)C", "N", "CC(C)(C)OC(=O)N1CCC(CC1)n1cnc2ccccc21"]
LARGE = ["C" * 200, "C" * 170]  # with the others enough for the most rows that are multiplied at a time


@pytest.fixture(scope="module")
def records() -> list[bytes]:
    return [encode(graph(smiles, number, coordinates=number % 3 != 2), number) for number, smiles in enumerate(SMILES + LARGE)]


def model_of(**config) -> MoleBlend:
    torch.manual_seed(3)
    model = MoleBlend(ModelConfig(**config)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def values(model: MoleBlend, records: list[bytes], batches: list[list[int]], threads: int = 1, precision: str = "float32") -> np.ndarray:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with Forward([model], "cpu", "2d+3d", graph_tokens, 10_000, precision=precision) as forward:
            assert not forward.apart
            done = [forward.submit(collate([records[i] for i in batch]).to_arrays()) for batch in batches]
            result = np.empty((len(records), model.config.embed_dim))
            for batch, future in zip(batches, done, strict=True):
                result[batch] = future.result()[0]
            assert torch.get_num_threads() == threads, "the program's own number stays"
            return result
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_the_same_bits_in_any_batch(records, precision):
    model = model_of(**PRESETS["tiny"])
    alone = values(model, records, [[i] for i in range(len(records))], precision=precision)
    everyone = list(range(len(records)))
    random = np.random.default_rng(0)
    for _ in range(3):
        order = random.permutation(everyone).tolist()
        cuts = [0, *sorted(random.choice(everyone[1:], 3, replace=False).tolist()), len(order)]
        batches = [order[a:b] for a, b in itertools.pairwise(cuts)]
        assert np.array_equal(values(model, records, batches, threads=2, precision=precision), alone)
    assert np.ptp(alone, axis=0).min() > 1e-3, "molecules must differ for this to show anything"


def test_bfloat16_is_close_and_another(records):
    model, everyone = model_of(**PRESETS["tiny"]), [list(range(len(records)))]
    exact, lowered = (values(model, records, everyone, precision=precision) for precision in ("float32", "bf16"))
    apart = np.sqrt(np.mean((exact - lowered) ** 2)) / exact.std()
    assert 1e-4 < apart < 0.03, apart  # bfloat16 keeps 8 bits


@pytest.mark.parametrize("many", [linear.FIXED_ROWS, *linear.MANY_ROWS])
def test_products_of_fixed_rows(many):
    """Any number of rows, none included; equal to the plain product but for rounding, and to themselves in any company."""
    weight, bias = torch.randn(48, 64), torch.randn(48)
    x = torch.randn(2 * many + 150, 64)
    with linear.fixed_rows(many):
        whole = linear.product(x, weight, bias)
    torch.testing.assert_close(whole, x @ weight.T + bias, rtol=1e-5, atol=1e-5)  # sums of 64 numbers in float32
    assert linear.rows_alike(weight)
    if not linear.rows_alike(weight, many):
        pytest.skip(f"this processor adds up another way for {many} rows, and is not given as many")
    with linear.fixed_rows(many):
        for start, stop in ((0, 0), (0, 1), (3, 67), (10, 150), (5, many + 5), (1, 2 * many + 70)):
            assert torch.equal(linear.product(x[start:stop], weight, bias), whole[start:stop])


def test_rows_that_differ_with_their_number_are_found_out(monkeypatch):
    """A library that adds up another way for many rows: fewer rows at a time, or molecules one by one, give the same bits still."""
    plain = linear._product

    def other_bits(x, weight, bias, out=None):
        given = plain(x, weight, bias, out)
        return given.mul_(1 + 1e-6) if len(x) >= other_bits.rows else given

    monkeypatch.setattr(linear, "_product", other_bits)
    model = model_of(**PRESETS["tiny"])
    for other_bits.rows, expected in ((10_000, 512), (512, 256), (256, 128), (100, 64)):
        with Forward([model], "cpu", "2d", graph_tokens, 10_000) as forward:
            assert forward.rows == expected
            assert not forward.apart


def test_molecules_are_computed_one_by_one_where_bits_would_differ():
    for config, apart in (({"embed_dim": 64}, False), ({"embed_dim": 48}, True), ({"gaussians": 40}, True), ({"attention_heads": 1}, True)):
        sizes = {"layers": 1, "embed_dim": 64, "ffn_dim": 64, "attention_heads": 4, "gaussians": 32, **config}
        with Forward([model_of(**sizes)], "cpu", "2d", graph_tokens, 10_000) as forward:
            assert forward.apart == apart, config
            batches = forward.batches(np.array([7, 3, 5, 3]))
            assert [len(batch) for batch in batches] == ([1] * 4 if apart else [4])
            assert np.concatenate(batches).tolist() == [1, 3, 2, 0]


def test_large_molecules_share_no_batch():
    """Their pairs would not fit into the memory of as many tokens of small ones."""
    with Forward([model_of(**PRESETS["tiny"])], "cpu", "2d", graph_tokens, 1_000) as forward:
        assert [len(batch) for batch in forward.batches(np.array([900, 900, 20, 20, 2_000]))] == [2, 1, 1, 1]
