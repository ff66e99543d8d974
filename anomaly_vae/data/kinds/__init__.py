"""The registry of kinds of data; each kind is one file with everything that is specific to it."""

from anomaly_vae.core.registry import Registry
from anomaly_vae.data.kinds.kind import Kind

# A file is of the kind that it fits best, of several that it fits alike the last in this dict.
KINDS: Registry[Kind] = Registry(
    "data.kind",
    {
        "table": "anomaly_vae.data.kinds.table:TABLE",
        "series": "anomaly_vae.data.kinds.series:SERIES",
        "pixels": "anomaly_vae.data.kinds.pixels:PIXELS",
        "images": "anomaly_vae.data.kinds.images:IMAGES",
    },
)
