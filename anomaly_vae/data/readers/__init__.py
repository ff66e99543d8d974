"""Readers: CSV files, Parquet files and data in memory as tables of named columns, read in constant memory."""
