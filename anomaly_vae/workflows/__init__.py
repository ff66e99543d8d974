"""One file for each command: it opens the data, does the work, records the run and returns the result."""
