import curation_samples  # noqa: F401 - skips if the packages are missing
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penguin_training.curation.clustering import balanced_quotas, cluster, even_shares
from penguin_training.curation.farthest_points import farthest_points
from penguin_training.curation.settings import CurationSettings, Filters
from penguin_training.curation.summary import entropy_bits


@settings(max_examples=50)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=8), st.integers(0, 300))
def test_shares_are_as_even_as_sizes_allow(sizes, total):
    sizes = np.array(sizes)
    shares = even_shares(sizes, total)
    assert shares.sum() == min(total, sizes.sum()) and (shares >= 0).all() and (shares <= sizes).all()
    cut = shares[shares < sizes]
    assert not len(cut) or shares.max() - cut.min() <= 1  # who could give more gives as much as any


def vectors(counts, seed=0):
    """Unit vectors around a direction for each count, and which of them each belongs to."""
    random = np.random.default_rng(seed)
    centres = np.linalg.qr(random.normal(size=(16, 16)))[0][: len(counts)]
    kinds = np.repeat(np.arange(len(counts)), counts)
    found = centres[kinds] + 0.05 * random.normal(size=(len(kinds), 16))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32), kinds


def test_a_balanced_selection_evens_out_a_skew():
    found, kinds = vectors((1600, 240, 80, 40, 30, 10))
    hierarchy = cluster(found, [60, 6], seed=0)
    leaves = hierarchy.assign(found)
    sizes = np.bincount(leaves, minlength=60)
    quotas = balanced_quotas(hierarchy, sizes, 180)
    assert quotas.sum() == 180 and (quotas <= sizes).all()
    after = np.concatenate([kinds[leaves == leaf][: quotas[leaf]] for leaf in range(60)])
    before, balanced = entropy_bits(np.bincount(kinds)), entropy_bits(np.bincount(after))
    assert before < 1.1 and balanced > 2.2  # of 2.58 bits
    assert np.bincount(after, minlength=6)[5] == 10  # all that there are of the rarest
    assert [len(level) for level in hierarchy.level_sizes(sizes)] == [60, 6]
    assert hierarchy.level_sizes(sizes)[1].sum() == len(found)


def test_clusters_are_the_same_for_the_same_seed_and_never_more_than_samples():
    found, _ = vectors((20, 5))
    first, second = (cluster(found, [40, 3, 1], seed=1) for _ in range(2))
    assert np.array_equal(first.centroids, second.centroids) and len(first.centroids) == 25
    assert balanced_quotas(first, np.bincount(first.assign(found), minlength=25), 100).sum() == 25


@pytest.mark.parametrize(
    ("samples", "wanted", "levels"),
    [
        (20_000, (), [400, 40, 4]),
        (10**8, (), [50_000, 5000, 500]),
        (300, (), [6]),
        (3, (), [1]),
        (10, (500, 20, 5), [10, 10, 5]),
    ],
)
def test_levels(samples, wanted, levels):
    assert CurationSettings(1, "e", Filters(), clusters=wanted).levels(samples) == levels


def test_farthest_points_cover_a_line_and_skip_copies():
    line = np.zeros((101, 2), np.float32)
    line[:, 0] = np.arange(101)
    assert farthest_points(line, 5).tolist()[0] == 50
    assert sorted(farthest_points(line, 5).tolist()) == [0, 25, 50, 75, 100]
    copies = np.concatenate([line, line])
    assert len({float(copies[n, 0]) for n in farthest_points(copies, 101)}) == 101
    assert sorted(farthest_points(np.ones((4, 2), np.float32), 9).tolist()) == [0, 1, 2, 3]
    assert farthest_points(line, 0).tolist() == []
