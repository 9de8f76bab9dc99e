"""Charts: many kinds, the same for the same seed, in any size."""

import numpy as np

from penguin_models.types import Size
from penguin_tabletop.charts import draw_chart
from penguin_tabletop.seeds import random_of


def test_charts_differ_and_repeat():
    size = Size(112, 168)
    charts = [draw_chart(random_of(n, "chart"), size) for n in range(30)]
    assert {chart.shape for chart in charts} == {(112, 168, 3)}
    assert len({chart.tobytes() for chart in charts}) == 30
    assert min(chart.std() for chart in charts) > 8
    assert np.array_equal(charts[3], draw_chart(random_of(3, "chart"), size))
