"""Files and arrays to typed chunks: sources, columns, splits, scaling, datasets, writers. No model, no score."""
