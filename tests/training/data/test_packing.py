"""Packing: every sample once, no budget exceeded, little padding, the same for the same seed."""

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penguin_training.data.packing import PackingPlan, pack

LENGTHS = Path(__file__).parents[2] / "data" / "training" / "lengths.json"
DOCUMENTATION = Path(__file__).parents[3] / "docs" / "training.md"
sizes = st.lists(st.integers(1, 50), min_size=1, max_size=60)


@given(sizes=sizes, spare=st.integers(0, 30))
def test_bins_hold_each_item_once_within_the_budget(sizes, spare):
    sizes = np.array(sizes)
    budget = int(sizes.max()) + spare
    bins = pack(sizes, budget)
    assert sorted(i for items in bins for i in items) == list(range(len(sizes)))
    filled = [int(sizes[items].sum()) for items in bins]
    assert max(filled) <= budget
    # Best fit never leaves two bins that would fit into one.
    assert len(bins) == 1 or sum(sorted(filled)[:2]) > budget


@given(sizes=sizes, seed=st.integers(0, 5), epoch=st.integers(0, 3))
def test_an_epoch_shows_each_usable_sample_once(sizes, seed, epoch):
    sizes = np.array([0, *sizes, 0])
    plan = PackingPlan(sizes, [(len(sizes), 1.0)], 64, seed)
    shown = [int(i) for batch in plan.micro_batches(epoch) for i in batch]
    assert sorted(shown) == list(range(1, len(sizes) - 1))
    again = PackingPlan(sizes, [(len(sizes), 1.0)], 64, seed).micro_batches(epoch)
    assert [list(b) for b in again] == [list(b) for b in plan.micro_batches(epoch)]


def test_mixed_data_fill_the_budget():
    random = np.random.default_rng(0)
    sizes = np.concatenate(
        [random.integers(100, 400, 12000), random.integers(1000, 3500, 1500), random.integers(20, 80, 8000)]
    )
    for epoch in (0, 1):
        assert PackingPlan(sizes, [(len(sizes), 1.0)], 4096, 0).fill(epoch) >= 0.99


@pytest.mark.parametrize(
    "shares", [{"pictures": 1, "clips": 1, "text": 1}, {"clips": 1, "pictures": 0.625}, {"pictures": 0.5, "text": 0.05}]
)
def test_the_table_top_fills_the_budget(shares):
    """Lengths of 400, 150 and 300 samples that `penguin-vl tabletop write` made for penguin-tiny, mixed as it ships."""
    lengths = json.loads(LENGTHS.read_text())
    sizes = np.concatenate([lengths[name] for name in shares])
    plan = PackingPlan(sizes, [(len(lengths[name]), float(share)) for name, share in shares.items()], 2048, 0)
    assert plan.fill(0) >= 0.97 and plan.fill(1) >= 0.97


@pytest.mark.parametrize("counts", [{"pictures": 400, "clips": 150, "text": 300}, {"pictures": 400, "clips": 44}])
def test_blocks_of_rendered_scenes_fill_the_budget(counts):
    """A stream packs each block by itself: of the size that the documentation names."""
    block = int(re.search(r"turns: 8\}\}\]`, with `block: (\d+)`", DOCUMENTATION.read_text()).group(1))
    lengths = json.loads(LENGTHS.read_text())
    sizes = np.concatenate([lengths[name][:count] for name, count in counts.items()])
    used = filled = 0
    for seed in range(20):
        rendered = np.random.default_rng(seed).choice(sizes, block, replace=False)
        used += rendered.sum()
        filled += 2048 * len(PackingPlan(rendered, [(block, 1.0)], 2048, seed).micro_batches(0))
    assert used / filled >= 0.97


def test_epochs_and_seeds_differ():
    sizes = np.arange(1, 100)
    plan = PackingPlan(sizes, [(99, 1.0)], 200, 0)
    other = PackingPlan(sizes, [(99, 1.0)], 200, 1)
    first, second = (np.concatenate(plan.micro_batches(e)).tolist() for e in (0, 1))
    assert first != second and first != np.concatenate(other.micro_batches(0)).tolist()


def test_repeats_show_files_more_or_less_often():
    plan = PackingPlan(np.full(30, 5), [(10, 2.0), (20, 0.5)], 64, 0)
    by_epoch = [Counter(int(i) for batch in plan.micro_batches(e) for i in batch) for e in (0, 1)]
    for counts in by_epoch:
        assert all(counts[i] == 2 for i in range(10))
        assert sum(counts[i] for i in range(10, 30)) == 10 and max(counts[i] for i in range(10, 30)) == 1
    assert by_epoch[0] != by_epoch[1]  # another part each time
