"""Studies run from a checkout; never shipped, never reimplementing a step of the workflow."""
