"""The registry of kinds of data; each kind is one file with everything that is specific to it."""

from anomaly_vae.core.registry import Registry
from anomaly_vae.data.kinds.kind import Kind

# A file is of the last kind in this dict that recognises it; a table is recognised last, and accepts every file.
KINDS: Registry[Kind] = Registry(
    "data.kind",
    {
        "table": "anomaly_vae.data.kinds.table:TABLE",
        "series": "anomaly_vae.data.kinds.series:SERIES",
        "pixels": "anomaly_vae.data.kinds.pixels:PIXELS",
        "images": "anomaly_vae.data.kinds.images:IMAGES",
    },
)
