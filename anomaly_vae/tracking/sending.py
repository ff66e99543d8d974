"""Entries into a store: the one place that writes a run to MLflow."""

from __future__ import annotations

import tempfile
from pathlib import Path

from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelOutput, Metric, Param, RunTag
from mlflow.models.model import MLMODEL_FILE_NAME, Model
from mlflow.tracking import MlflowClient

from anomaly_vae.store import knock, store_errors
from anomaly_vae.tracking.entries import Batch, Data, End, Entry, Files, ModelFiles


class Sender:
    """Writes the entries of one run. Metrics are linked to its logged model, where it has one.

    Every failure is a RunError of one line, and comes within seconds where no server listens any more.
    """

    def __init__(self, client: MlflowClient, run_id: str, model_id: str | None = None) -> None:
        self.client, self.run_id, self.model_id = client, run_id, model_id

    def take(self, entry: Entry) -> None:
        with store_errors("logging to the run"):
            knock(self.client.tracking_uri)  # MLflow's own retries would hold a fit up for minutes
            self._take(entry)

    def _take(self, entry: Entry) -> None:
        client, run_id = self.client, self.run_id
        match entry:
            case Batch():
                points = [Metric(p.key, p.value, p.when, p.step, self.model_id) for p in entry.points]
                params = [Param(key, value) for key, value in entry.params.items()]
                tags = [RunTag(key, value) for key, value in entry.tags.items()]
                client.log_batch(run_id, metrics=points, params=params, tags=tags)
            case Data():
                data = Dataset(entry.name, entry.digest, entry.source_type, entry.source, entry.schema, entry.profile)
                client.log_inputs(run_id, [DatasetInput(data, [InputTag("mlflow.data.context", entry.context)])])
            case Files():
                client.log_artifacts(run_id, str(entry.folder), entry.place or None)
            case ModelFiles():
                if self.model_id is None:
                    self.new_model(entry.name)
                client.log_model_artifacts(self.model_id, str(entry.folder))
                self._sign(entry.folder / MLMODEL_FILE_NAME)
                client.finalize_logged_model(self.model_id, "READY")
            case End():
                client.set_terminated(run_id, entry.status, entry.when)
                if entry.status == "FAILED" and self.model_id:
                    client.finalize_logged_model(self.model_id, "FAILED")

    def new_model(self, name: str) -> None:
        """A logged model of the run, whose files may come later: what is logged from now on is linked to it."""
        with store_errors("making the logged model"):
            record = self.client.get_run(self.run_id)
            model = self.client.create_logged_model(record.info.experiment_id, name, self.run_id)
            step = len(record.outputs.model_outputs) if record.outputs else 0  # the latest has the largest
            self.client.log_outputs(self.run_id, [LoggedModelOutput(model.model_id, step)])
        self.model_id = str(model.model_id)

    def _sign(self, description: Path) -> None:
        """Writes the run and the id of the model into the model's own description; the file itself stays."""
        with tempfile.TemporaryDirectory() as folder:
            described = Model.load(str(description))
            described.model_id, described.model_uuid, described.run_id = self.model_id, self.model_id, self.run_id
            described.save(str(Path(folder) / description.name))
            self.client.log_model_artifacts(self.model_id, folder)
