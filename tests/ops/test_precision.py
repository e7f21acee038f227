"""Which instructions for bfloat16 a processor has, from what Linux says of it."""

import pytest

from moleblend_fs.ops.precision import bfloat16_instructions


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx512f avx512_bf16 amx_bf16 amx_tile\nbugs\t\t: spectre_v1\n", ["amx_bf16", "avx512_bf16"]),
        ("Features\t: fp asimd bf16 sve\n", ["bf16"]),
        ("flags\t\t: fpu avx512f avx512_vnni\nmodel name\t: no avx512_bf16 here\n", []),
    ],
)
def test_flags(tmp_path, text, found):
    (tmp_path / "cpuinfo").write_text(text)
    assert bfloat16_instructions(tmp_path / "cpuinfo") == found


def test_a_system_without_the_file(tmp_path):
    assert bfloat16_instructions(tmp_path / "cpuinfo") == []
