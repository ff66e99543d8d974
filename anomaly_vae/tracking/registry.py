"""The registry of models: the versions of a registered model, and which of them is the champion."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlflow.entities import LoggedModel
from mlflow.entities import Run as RunRecord
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from anomaly_vae.core.config import Config
from anomaly_vae.core.errors import RunError
from anomaly_vae.tracking.client import connect, find_run, model_of
from anomaly_vae.tracking.metadata import run_page
from anomaly_vae.tracking.run import REPORT
from anomaly_vae.tracking.store import server_uri, store_errors, store_uri

MODELS = "models:/"  # how MLflow addresses a model
CHAMPION = "champion"  # the alias of the version that is in use
ABOUT = "Finds anomalies in data like"  # how the description of a registered model begins
ADDRESS = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+|latest))?")


@dataclass(frozen=True)
class Version:
    """One version of a registered model, and the run that logged it ("" if that is not known)."""

    name: str
    version: str
    run_id: str

    @property
    def uri(self) -> str:
        """MLflow's address of this version."""
        return f"{MODELS}{self.name}/{self.version}"


def resolve(client: MlflowClient, config: Config, uri: str) -> LoggedModel:
    """The logged model behind models:/NAME@ALIAS, /NAME/VERSION, /NAME/latest or /MODEL_ID. Raises RunError."""
    address = ADDRESS.fullmatch(uri)
    if address is None:
        raise RunError(
            f"{uri!r} is no address of a model; models:/NAME@{CHAMPION}, models:/NAME/VERSION or models:/MODEL_ID"
            " would be"
        )
    name, alias, version = address["name"], address["alias"], address["version"]
    with store_errors(f"looking for {uri} in {store_uri(config)}"):
        if alias:
            record = client.get_model_version_by_alias(name, alias)
        elif version == "latest":
            versions = client.search_model_versions(f"name = '{name}'", order_by=["version_number DESC"], max_results=1)
            record = versions[0] if versions else None
        elif version:
            record = client.get_model_version(name, version)
        else:
            return client.get_logged_model(name)
        model_id = None if record is None else _model_id(record)
        if model_id is None:
            raise RunError(f"{uri} was not registered by `anomaly-vae promote`, and is not read")
        return client.get_logged_model(model_id)


def champion(name: str, config: Config) -> Version | None:
    """The version of a registered model that has the alias `champion`; None if there is none. Raises RunError."""
    client = connect(config)
    with store_errors(f"looking for the champion of {name}"):
        try:
            record = client.get_model_version_by_alias(name, CHAMPION)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise
    return Version(name, str(record.version), record.run_id or "")


def crown(run: str, name: str, why: str, tags: Mapping[str, Any], config: Config) -> Version:
    """Registers the latest model of a run as `name`, unless it is registered, tags it and makes it the champion.

    why: stands in the description of the version, beside links to the run and its report. Raises RunError for a run
    without a model.
    """
    client = connect(config, write=True)
    record = find_run(client, run)
    run_id = record.info.run_id
    with store_errors(f"registering the model of run {run_id}"):
        model_id = model_of(record)
        if model_id is None:
            raise RunError(f"run {run_id} has no logged model, as runs of this version have; fit again")
        model = client.get_logged_model(model_id)
        if model.status != "READY":
            raise RunError(f"the model of run {run_id} is {model.status}, not READY; fit again")
        links = f"[run {record.info.run_name}]({_page(record)}), [report]({_page(record, REPORT)})"
        _describe(client, name, f"{ABOUT} {record.data.tags.get('data', name)}. The {CHAMPION} is {links}. Score with"
                  f" `anomaly-vae score DATA -m {MODELS}{name}@{CHAMPION}`")  # fmt: skip
        registered = client.search_model_versions(f"name = '{name}'")
        versions = [version for version in registered if _model_id(version) == model_id]
        if not versions:
            # a sqlite store would look models:/MODEL_ID up at the address that is MLflow's global state
            source = f"{MODELS}{model_id}" if server_uri() else model.artifact_location
            versions = [client.create_model_version(name, source, run_id, model_id=model_id)]
        number = str(versions[0].version)
        client.update_model_version(name, number, f"{record.info.run_name}: {why}. {links}")
        for key, value in {"name": record.info.run_name, **tags}.items():
            client.set_model_version_tag(name, number, key, value)
        client.set_registered_model_alias(name, CHAMPION, number)
    return Version(name, number, run_id)


def _model_id(version: ModelVersion) -> str | None:
    """The logged model of a version, whose id MLflow keeps only as a part of the version's source."""
    match = re.search(r"/(m-[0-9a-f]{32})(?=/|$)", version.source or "")
    return match[1] if match else None


def _describe(client: MlflowClient, name: str, description: str) -> None:
    """Makes the registered model, unless it exists, and describes it, unless a person did."""
    try:
        client.create_registered_model(name, description=description)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        if (client.get_registered_model(name).description or ABOUT).startswith(ABOUT):
            client.update_registered_model(name, description)


def _page(record: RunRecord, file: str = "") -> str:
    return run_page(record.info.experiment_id, record.info.run_id, file)
