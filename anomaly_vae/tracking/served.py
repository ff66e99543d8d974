"""The code inside a logged model. MLflow runs it when the model is loaded; the detector is read from its own files.

Written as models-from-code: this file is copied into the model as it is, and nothing of it is pickled. A model
outlives the version that logged it, so this uses the public package anomaly-vae alone, which must be installed where
the model is loaded, in the version that the model's requirements name.
"""

from __future__ import annotations

import csv
import logging
import sys
from functools import wraps
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.exceptions import INTERNAL_ERROR, INVALID_PARAMETER_VALUE, MlflowException
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext

from anomaly_vae import AnomalyVAEError, Detector


class ServedDetector(PythonModel):  # type: ignore[misc]
    """A detector as a function of a DataFrame; see `Detector.score_frame`."""

    def load_context(self, context: PythonModelContext) -> None:
        """Raises DetectorError where the detector's folder inside the model was altered."""
        self.detector = Detector.load(context.artifacts["detector"])

    def predict(
        self, context: PythonModelContext | None, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """The columns of `anomaly-vae score`. params: threshold (nats; None: the detector's) and explain (columns).

        Raises MlflowException: INVALID_PARAMETER_VALUE, which a server answers with 400, for rows that cannot be
        scored. Anything else is logged and answered with 500, for its text may name what is on the server.
        """
        try:
            return self.detector.score_frame(model_input, **(params or {}))
        except AnomalyVAEError as error:
            raise MlflowException(str(error), INVALID_PARAMETER_VALUE) from error
        except Exception as error:
            logging.getLogger("anomaly_vae").exception("internal error while scoring")
            raise MlflowException("internal error; the log of the server says more", INTERNAL_ERROR) from error


def _guard(server: Any) -> None:
    """Makes MLflow's scoring server read CSV whatever the signature, each cell as it is written, and answer a body that
    cannot be read with 400 and the reason: of its own it answers 500, or with its traceback."""
    answer = server.invocations

    @wraps(answer)
    def invocations(*args: Any, **options: Any) -> Any:
        try:
            return answer(*args, **options)
        except MlflowException as error:
            error.json_kwargs.pop("stack_trace", None)
            raise
        except (RecursionError, ValueError) as error:  # brackets too deep, a number of too many digits
            raise MlflowException(f"the body cannot be read: {error}", INVALID_PARAMETER_VALUE) from error

    def parse_csv_input(csv_input: Any, schema: Any = None) -> pd.DataFrame:
        text = Path(csv_input).read_text("utf-8") if isinstance(csv_input, str) else csv_input.read()
        lines = StringIO(text.removeprefix("\ufeff"), newline="")
        try:
            header, *rows = (row for row in csv.reader(lines, strict=True) if row)
        except (csv.Error, ValueError) as error:  # ValueError: not a line
            raise MlflowException(f"the body cannot be read as CSV: {error}", INVALID_PARAMETER_VALUE) from error
        for number, row in enumerate(rows, 1):
            if len(row) != len(header):
                what = f"row {number} has {len(row)} cells, the header {len(header)}"
                raise MlflowException(f"the body cannot be read as CSV: {what}", INVALID_PARAMETER_VALUE)
        return pd.DataFrame(rows, columns=header, dtype=object)

    server.invocations, server.parse_csv_input = invocations, parse_csv_input


SERVER = sys.modules.get("mlflow.pyfunc.scoring_server")
if SERVER is not None and not hasattr(SERVER.invocations, "__wrapped__"):
    _guard(SERVER)
set_model(ServedDetector())
