"""Two threads, and small data that scikit-learn carries."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault(
    "OMP_WAIT_POLICY", "PASSIVE"
)  # threads that spin while they wait are 40 times slower on a busy machine

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer, load_digits

torch.set_num_threads(2)


@pytest.fixture(scope="session")
def digits() -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """160 pictures (N, 8, 8) of 0-255, and which of them are anomalous: 100 threes, then 60 of the other classes."""
    bunch = load_digits()
    pictures = (bunch.images * 255 / 16).astype(np.uint8)
    three = bunch.target == 3
    chosen = np.r_[np.flatnonzero(three)[:100], np.flatnonzero(~three)[:60]]
    return pictures[chosen], ~three[chosen]


@pytest.fixture(scope="session")
def cancer() -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """260 rows (N, 10) of measurements, and which of them are anomalous: 200 benign, then 60 malignant."""
    bunch = load_breast_cancer()
    benign = bunch.target == 1
    chosen = np.r_[np.flatnonzero(benign)[:200], np.flatnonzero(~benign)[:60]]
    return bunch.data[chosen, :10], ~benign[chosen]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder with its own mlruns, whatever the environment says."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path
