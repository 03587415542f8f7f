"""When to measure, replay, accumulate: the probe."""
