"""Settings of the fuzz tests at the borders: 2,000 examples each, 100,000 with HYPOTHESIS_PROFILE=long."""

import hypothesis

LONG = hypothesis.settings.get_current_profile_name() == "long"
FUZZ = hypothesis.settings(
    max_examples=100_000 if LONG else 2_000,
    deadline=None,
    database=None,
    derandomize=not LONG,
    phases=[hypothesis.Phase.generate],
    suppress_health_check=list(hypothesis.HealthCheck),
)
