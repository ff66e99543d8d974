"""The code inside a logged model, which MLflow runs when the model is loaded: the detector comes from its own files.

Written as models-from-code: this file is copied into the model as it is, and nothing of it is pickled. It needs the
package anomaly-vae where it is loaded, of the version that the model's requirements name.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext

from anomaly_vae.detector.dataframe import score_frame
from anomaly_vae.detector.detector import Detector


class ServedDetector(PythonModel):  # type: ignore[misc]
    """A detector folder as a function of a DataFrame; see `anomaly_vae.detector.dataframe.score_frame`."""

    def load_context(self, context: PythonModelContext) -> None:
        """Raises DetectorError where the folder inside the model was altered."""
        self.detector = Detector.load(context.artifacts["detector"])

    def predict(
        self, context: PythonModelContext | None, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """The columns of `anomaly-vae score`. params: threshold (nats; None: the detector's) and explain (columns)."""
        return score_frame(self.detector, model_input, **(params or {}))


set_model(ServedDetector())
