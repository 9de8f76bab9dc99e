"""Standard benchmarks from local copies in their published file formats, asked as their usual harness asks them."""
