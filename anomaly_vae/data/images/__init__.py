"""Image files: listing of folders and manifests, decoding, masks."""
