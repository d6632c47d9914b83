"""The cache on a CPU takes memory for what is written, not for what may come."""

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from providers.local.slot_cache import reserve_zeros  # noqa: E402

GIGABYTE = 1 << 30


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="Linux tells resident memory")
def test_only_what_is_written_takes_memory_and_it_is_given_back():
    before = resident_bytes()
    lines = reserve_zeros(GIGABYTE // 2, torch.zeros(1, dtype=torch.bfloat16)).view(1024, -1)
    lines[:32] = 1.0
    assert resident_bytes() - before < GIGABYTE // 8
    assert lines[:32].sum(dtype=torch.float64) == 32 * lines.shape[1]
    assert not lines[32:64].any()
    del lines
    assert resident_bytes() - before < GIGABYTE // 32


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_type_is_that_of_the_states(dtype):
    found = reserve_zeros(12, torch.ones(2, dtype=dtype))
    assert found.dtype == dtype
    assert found.tolist() == [0.0] * 12
    assert reserve_zeros(0, torch.ones(2, dtype=dtype)).numel() == 0
