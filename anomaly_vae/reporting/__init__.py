"""Figures, summaries, the HTML report and heat maps: what people look at. The only importer of matplotlib."""
