"""Exports a detector for other runtimes: ONNX, or torch.export's .pt2. Raw values in, the score and its parts out."""

from __future__ import annotations

import copy
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.export import Dim, ExportedProgram

from anomaly_vae.core.advice import setting
from anomaly_vae.core.errors import DetectorError, UsageError
from anomaly_vae.core.files import graph_format, replacing
from anomaly_vae.core.version import __version__
from anomaly_vae.data.kinds import KINDS
from anomaly_vae.detector.detector import Detector
from anomaly_vae.scoring.graph import RowGraph, SeriesGraph

ABOUT = "about.json"  # file within a .pt2 with the description that an ONNX file holds as metadata


def export(detector: Detector, path: str | Path, kind: str | None = None) -> dict[str, str]:
    """Write a detector as a graph.

    The graph has one input, `values`, and the outputs `score` and its parts, (N,) float64 in nats. `values` holds rows
    (N, F) float64 in the order of `columns`, NaN for a missing cell and a category as its code; or (N, C) float64
    consecutive steps of one machine, at least one window; or pictures (N, C, H, W) uint8. N is free.

    Parameters
    ----------
    detector : Detector
        The detector.
    path : str or Path
        The file to write.
    kind : {"onnx", "torch"}, optional
        The format; None: by the suffix of `path`.

    Returns
    -------
    dict of str to str
        The description that the file holds; see `about`.

    Raises
    ------
    UsageError
        If the suffix is unknown, or the extra `onnx` is not installed.
    DetectorError
        If the detector has a condition, or its model cannot be traced.
    """
    kind = kind or graph_format(path)
    write = _onnx_writer() if kind == "onnx" else _write_torch
    description = about(detector)
    with _quiet():
        program = trace(detector)
        content = write(program, description)
    with replacing(path) as beside:
        beside.write_bytes(content)
    return description


def trace(detector: Detector) -> ExportedProgram:
    """The graph for any number of rows, steps or pictures, on the CPU.

    Raises DetectorError for a detector with a condition, and for a model that cannot be traced.
    """
    if detector.scaler.n_condition:
        raise DetectorError(
            "a graph has one input, the values, and this detector reads a condition besides; `score`, Python and the"
            " served model take both"
        )
    if detector.layout.profile is not None:
        raise DetectorError(
            "a graph has one input, the values, and this detector judges by the time of day besides;"
            f" {setting('data.calendar', 'none')} fits one without"
        )
    net = copy.deepcopy(detector.score_model).cpu().eval().requires_grad_(False)
    layout, window = detector.layout, detector.config.data.window
    min_rows = 1
    graph: torch.nn.Module
    if KINDS[layout.kind].ordered:
        assert window
        graph, min_rows = SeriesGraph(net, detector.scaler, window), window
    else:
        graph = RowGraph(net, detector.scaler)
    values = torch.from_numpy(np.zeros((3 * min_rows, *layout.shape), np.float64 if layout.columns else np.uint8))
    rows = Dim("rows", min=min_rows)
    try:
        with torch.no_grad():
            return torch.export.export(graph.eval(), (values,), dynamic_shapes={"values": {0: rows}})
    except Exception as error:  # torch's tracer raises exceptions of any type
        reason = str(error).strip().split("\n")[0][:200]
        raise DetectorError(f"a {detector.config.model.kind} model cannot be written as a graph: {reason}") from error


def about(detector: Detector) -> dict[str, str]:
    """The description of a detector that an exported file holds; lists and objects are JSON."""
    layout = detector.layout
    columns = [
        {"name": column.name, "categories": column.categories, "constant": column.constant} for column in layout.columns
    ]
    return {
        "anomaly_vae": __version__,
        "kind": layout.kind,
        "shape": json.dumps(layout.shape),
        "columns": json.dumps(
            columns or [{"name": name, "categories": None, "constant": None} for name in layout.pixels]
        ),
        "pixel_max": f"{layout.pixel_max:g}",
        "window": str(detector.config.data.window or ""),
        "threshold": repr(detector.threshold.value),
        "policy": detector.threshold.policy,
        "outputs": json.dumps(["score", *detector.score_model.part_names]),
    }


def _onnx_writer() -> Callable[[ExportedProgram, dict[str, str]], bytes]:
    try:
        import onnxscript  # noqa: F401  (torch.onnx needs it)
    except ImportError as error:
        raise UsageError(
            f"--format onnx needs {error.name}, which is not installed: pip install 'anomaly-vae[onnx]'"
        ) from error
    return _write_onnx


def _write_onnx(program: ExportedProgram, description: dict[str, str]) -> bytes:
    outputs = json.loads(description["outputs"])
    graph = torch.onnx.export(
        program, input_names=["values"], output_names=outputs, dynamo=True, verbose=False, external_data=False
    )
    assert graph is not None
    model = graph.model_proto
    for key, value in description.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    content: bytes = model.SerializeToString()
    return content


def _write_torch(program: ExportedProgram, description: dict[str, str]) -> bytes:
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={ABOUT: json.dumps(description)})
    return file.getvalue()


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppresses the warnings and log messages of torch's exporters, which are meant for their developers."""
    loggers: list[Any] = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
