"""The kinds of data: one file each, with all that differs between them."""

from anomaly_vae.core.registry import Registry
from anomaly_vae.data.kinds.kind import Kind

# The last that recognises a file has it: a table is what nothing more special is.
KINDS: Registry[Kind] = Registry(
    "data.kind",
    {
        "table": "anomaly_vae.data.kinds.table:TABLE",
        "series": "anomaly_vae.data.kinds.series:SERIES",
        "pixels": "anomaly_vae.data.kinds.pixels:PIXELS",
        "images": "anomaly_vae.data.kinds.images:IMAGES",
    },
)
