"""Sources of data: `open_source` recognises a file or folder, `open_memory` takes arrays and DataFrames.

The adapters need pyarrow, so they load with the first of the names below: the contract in `anomaly_vae.data.base` is
imported by much that reads no file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anomaly_vae.data.opening import ADAPTERS as ADAPTERS
    from anomaly_vae.data.opening import open_memory as open_memory
    from anomaly_vae.data.opening import open_source as open_source

__all__ = ["ADAPTERS", "open_memory", "open_source"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from anomaly_vae.data import opening

    return getattr(opening, name)
