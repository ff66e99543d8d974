"""A detector as an MLflow model: a pyfunc written as code, with its signature, an example and pinned requirements."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import AnyType

from anomaly_vae.core.files import scratch_folder
from anomaly_vae.core.version import __version__
from anomaly_vae.data.frames import Field
from anomaly_vae.detector.dataframe import example, interface
from anomaly_vae.detector.detector import Detector
from anomaly_vae.tracking.run import MODEL, Run
from anomaly_vae.tracking.store import store_errors

CODE = Path(__file__).with_name("served.py")
# The packages that decide the numbers and the format of a prediction; others follow from anomaly-vae's requirements.
PINNED = ("mlflow", "numpy", "pandas", "pyarrow", "safetensors", "torch", "torchvision")
PARAMS = ParamSchema([ParamSpec("threshold", DataType.double, None), ParamSpec("explain", DataType.long, 0)])


def log_model(run: Run, detector: Detector) -> None:
    """The detector as files, and within an MLflow model that can be served."""
    with saved_model(detector) as folder:
        run.detector(folder / "artifacts" / "detector")
        run.model(folder, MODEL)


@contextmanager
def saved_model(detector: Detector) -> Iterator[Path]:
    """The folder of a complete MLflow model, which is deleted after the context; the detector is in artifacts/detector.

    Requirements and signature are written out, so MLflow infers nothing and runs only the model's own code.
    Raises RunError where MLflow cannot write it.
    """
    with scratch_folder() as scratch:
        detector.save(scratch / "detector")
        with store_errors("making the model"):
            _save(scratch / "model", detector, scratch / "detector")
        yield scratch / "model"


def _save(folder: Path, detector: Detector, detector_folder: Path) -> None:
    columns = interface(detector)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's warnings are about its own type hints and its own use of pandas
        import mlflow.pyfunc

        mlflow.pyfunc.save_model(
            folder,
            python_model=str(CODE),
            artifacts={"detector": str(detector_folder)},
            signature=ModelSignature(inputs=_schema(columns.inputs), outputs=_schema(columns.outputs), params=PARAMS),
            input_example=example(detector),
            pip_requirements=requirements(),
        )


def requirements() -> list[str]:
    """The installed versions, without a build suffix such as torch's +cpu, which a package index need not have."""
    pins = {"anomaly-vae": __version__} | {name: version(name).partition("+")[0] for name in PINNED}
    return [f"{name}=={number}" for name, number in pins.items()]


def _schema(fields: Iterable[Field]) -> Schema:
    return Schema([ColSpec(type=_type(field), name=field.name, required=field.required) for field in fields])


def _type(field: Field) -> DataType | AnyType:
    return AnyType() if field.type == "any" else DataType[field.type]
