"""What people look at: figures, summaries, the HTML report and heat maps. The only importer of matplotlib."""
