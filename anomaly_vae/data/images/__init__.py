"""Folders and lists of image files: listing, decoding, masks."""
