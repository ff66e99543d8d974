"""The kinds of data: one file each, with all that differs between them."""
