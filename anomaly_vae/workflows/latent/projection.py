"""Projection of latent codes to two dimensions. The only importer of umap, the extra `umap`."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from anomaly_vae.core.errors import UsageError

Method = Literal["pca", "umap"]
NEIGHBOURS = 15  # UMAP's default number of neighbours; reduced if there are fewer codes


def project(codes: NDArray[np.float64], method: Method, seed: int) -> tuple[NDArray[np.float64], tuple[str, str]]:
    """Codes (N, D) as points (N, 2), and the names of the two axes. Codes of one or two dimensions are not projected.

    Raises UsageError for umap if it is not installed.
    """
    if codes.shape[1] == 2:
        return codes, ("z1", "z2")
    if codes.shape[1] == 1:
        return np.c_[codes, np.zeros(len(codes))], ("z1", "")
    return _umap(codes, seed) if method == "umap" else _pca(codes, seed)


def _pca(codes: NDArray[np.float64], seed: int) -> tuple[NDArray[np.float64], tuple[str, str]]:
    from sklearn.decomposition import PCA

    pca = PCA(2, random_state=seed % 2**32)
    points: NDArray[np.float64] = pca.fit_transform(codes)
    first, second = (f"PC{i + 1}, {share:.0%} of the variance" for i, share in enumerate(pca.explained_variance_ratio_))
    return points, (first, second)


def _umap(codes: NDArray[np.float64], seed: int) -> tuple[NDArray[np.float64], tuple[str, str]]:
    import warnings

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # umap warns that tensorflow is missing, which is not needed
            from umap import UMAP
    except ImportError as error:
        raise UsageError(
            "--method umap needs umap-learn: pip install 'anomaly-vae[umap]'; pca needs nothing"
        ) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # umap warns that with a seed it uses one thread
        points = UMAP(n_neighbors=min(NEIGHBOURS, len(codes) - 1), random_state=seed % 2**32).fit_transform(codes)
    return np.asarray(points, np.float64), ("UMAP 1", "UMAP 2")
