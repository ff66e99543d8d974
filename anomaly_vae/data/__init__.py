"""Files and arrays as typed chunks: sources, columns, splits, scaling, datasets, writers. Knows no model or score."""
