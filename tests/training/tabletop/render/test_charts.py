"""Charts differ between seeds and are reproducible."""

import numpy as np

from penguin_models.types import Size
from penguin_tabletop.render.charts import draw_chart
from penguin_tabletop.seeds import seeded_random


def test_charts_differ_between_seeds_and_repeat_for_one():
    size = Size(112, 168)
    charts = [draw_chart(seeded_random(n, "chart"), size) for n in range(30)]
    assert {chart.shape for chart in charts} == {(112, 168, 3)}
    assert len({chart.tobytes() for chart in charts}) == 30
    assert np.array_equal(charts[3], draw_chart(seeded_random(3, "chart"), size))
