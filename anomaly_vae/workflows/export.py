"""A detector as a file for other runtimes: ONNX, or torch.export's .pt2. Raw values in, the score and its parts out."""

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

from anomaly_vae.core.errors import DetectorError, UsageError
from anomaly_vae.core.files import graph_format, replacing
from anomaly_vae.core.version import __version__
from anomaly_vae.data.kinds import KINDS
from anomaly_vae.detector.detector import Detector
from anomaly_vae.scoring.graph import RowGraph, SeriesGraph

ABOUT = "about.json"  # within a .pt2: what an ONNX file holds as metadata


def export(detector: Detector, path: str | Path, kind: str | None = None) -> dict[str, str]:
    """Writes a detector as a graph with one input, `values`, and the outputs `score` and its parts; what it says of
    itself.

    kind: onnx or torch; None: by the ending of the path. values: rows (N, F) float64 in the order of `columns`, NaN
    where a cell is missing and a category as its code; (N, C) float64 consecutive steps of one machine, at least a
    window; or (N, C, H, W) uint8 pictures. N is free. Outputs: (N,) float64 nats.
    Raises UsageError for an unknown ending or where the extra `onnx` is missing, DetectorError for a model that cannot
    be traced.
    """
    kind = kind or graph_format(path)
    write = _onnx_writer() if kind == "onnx" else _write_torch
    described = about(detector)
    with _quiet():
        program = trace(detector)
        content = write(program, described)
    with replacing(path) as beside:
        beside.write_bytes(content)
    return described


def trace(detector: Detector) -> ExportedProgram:
    """The graph over any number of rows, steps or pictures, on the CPU.

    Raises DetectorError for a detector with a condition, and for a model that cannot be traced.
    """
    if detector.scaler.n_condition:
        raise DetectorError(
            "a graph has one input, the values, and this detector reads a condition besides; `score`, Python and the"
            " served model take both"
        )
    net = copy.deepcopy(detector.score_model).cpu().eval().requires_grad_(False)
    layout, window = detector.layout, detector.config.data.window
    least = 1
    graph: torch.nn.Module
    if KINDS[layout.kind].ordered:
        assert window
        graph, least = SeriesGraph(net, detector.scaler, window), window
    else:
        graph = RowGraph(net, detector.scaler)
    values = torch.from_numpy(np.zeros((3 * least, *layout.shape), np.float64 if layout.columns else np.uint8))
    rows = Dim("rows", min=least)
    try:
        with torch.no_grad():
            return torch.export.export(graph.eval(), (values,), dynamic_shapes={"values": {0: rows}})
    except Exception as error:  # torch raises whatever its tracer meets
        reason = str(error).strip().split("\n")[0][:200]
        raise DetectorError(f"a {detector.config.model.kind} model cannot be written as a graph: {reason}") from error


def about(detector: Detector) -> dict[str, str]:
    """What a graph says of itself; lists and objects as JSON."""
    layout = detector.layout
    columns = [{"name": column.name, "categories": column.categories} for column in layout.columns]
    return {
        "anomaly_vae": __version__,
        "kind": layout.kind,
        "shape": json.dumps(layout.shape),
        "columns": json.dumps(columns or [{"name": name, "categories": None} for name in layout.pixels]),
        "pixel_max": f"{layout.pixel_max:g}",
        "window": str(detector.config.data.window or ""),
        "threshold": repr(detector.threshold.value),
        "policy": detector.threshold.policy,
        "outputs": json.dumps(["score", *detector.score_model.part_names]),
    }


def _onnx_writer() -> Callable[[ExportedProgram, dict[str, str]], bytes]:
    try:
        import onnxscript  # noqa: F401  what torch.onnx writes with
    except ImportError as error:
        raise UsageError(
            f"--format onnx needs {error.name}, which is not installed: pip install 'anomaly-vae[onnx]'"
        ) from error
    return _write_onnx


def _write_onnx(program: ExportedProgram, described: dict[str, str]) -> bytes:
    outputs = json.loads(described["outputs"])
    graph = torch.onnx.export(
        program, input_names=["values"], output_names=outputs, dynamo=True, verbose=False, external_data=False
    )
    assert graph is not None
    model = graph.model_proto
    for key, value in described.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    content: bytes = model.SerializeToString()
    return content


def _write_torch(program: ExportedProgram, described: dict[str, str]) -> bytes:
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={ABOUT: json.dumps(described)})
    return file.getvalue()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch's exporters say to their own developers."""
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
