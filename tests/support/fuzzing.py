"""Settings of the fuzz tests at the borders: 1,000 examples each, or 100,000.

Those take HYPOTHESIS_PROFILE=long and pytest --timeout 0.
"""

import hypothesis

LONG = hypothesis.settings.get_current_profile_name() == "long"
FUZZ = hypothesis.settings(
    max_examples=100_000 if LONG else 1_000,
    deadline=None,
    database=None,
    derandomize=not LONG,
    phases=[hypothesis.Phase.generate],
    suppress_health_check=list(hypothesis.HealthCheck),
)
