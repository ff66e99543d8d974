"""Latent codes in two dimensions; the only importer of umap, the extra `umap`."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from anomaly_vae.core.errors import UsageError

Method = Literal["pca", "umap"]
NEIGHBOURS = 15  # of UMAP: its own default, fewer where there are fewer codes


def project(
    codes: NDArray[np.float64], method: Method, seed: int
) -> tuple[NDArray[np.float64], tuple[str, str]]:  # fmt: skip
    """(N, 2) points of codes (N, D), and what the two axes are. Codes of two dimensions are drawn as they are.

    Raises UsageError where umap is asked for and not installed.
    """
    if codes.shape[1] == 2:
        return codes, ("z1", "z2")
    if codes.shape[1] == 1:
        return np.c_[codes, np.zeros(len(codes))], ("z1", "")
    return _umap(codes, seed) if method == "umap" else _pca(codes, seed)


def _pca(codes: NDArray[np.float64], seed: int) -> tuple[NDArray[np.float64], tuple[str, str]]:
    from sklearn.decomposition import PCA

    pca = PCA(2, random_state=seed)
    points: NDArray[np.float64] = pca.fit_transform(codes)
    first, second = (f"PC{i + 1}, {share:.0%} of the variance" for i, share in enumerate(pca.explained_variance_ratio_))
    return points, (first, second)


def _umap(codes: NDArray[np.float64], seed: int) -> tuple[NDArray[np.float64], tuple[str, str]]:
    import warnings

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # umap tells of tensorflow, which is not needed
            from umap import UMAP
    except ImportError as error:
        raise UsageError(
            "--method umap needs umap-learn: pip install 'anomaly-vae[umap]'; pca needs nothing"
        ) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a seed costs it its threads, which it says each time
        points = UMAP(n_neighbors=min(NEIGHBOURS, len(codes) - 1), random_state=seed).fit_transform(codes)
    return np.asarray(points, np.float64), ("UMAP 1", "UMAP 2")
