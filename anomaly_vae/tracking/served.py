"""The code inside a logged model. MLflow runs it when the model is loaded; the detector is read from its own files.

Written as models-from-code: this file is copied into the model as it is, and nothing of it is pickled. A model
outlives the version that logged it, so this uses the public package anomaly-vae alone, which must be installed where
the model is loaded, in the version that the model's requirements name.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext

from anomaly_vae import Detector


class ServedDetector(PythonModel):  # type: ignore[misc]
    """A detector as a function of a DataFrame; see `Detector.score_frame`."""

    def load_context(self, context: PythonModelContext) -> None:
        """Raises DetectorError where the detector's folder inside the model was altered."""
        self.detector = Detector.load(context.artifacts["detector"])

    def predict(
        self, context: PythonModelContext | None, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """The columns of `anomaly-vae score`. params: threshold (nats; None: the detector's) and explain (columns)."""
        return self.detector.score_frame(model_input, **(params or {}))


set_model(ServedDetector())
