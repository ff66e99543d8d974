"""sample-data, runs, config, info and ui."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from anomaly_vae.cli.options import load_config, settings
from anomaly_vae.core.advice import argument
from anomaly_vae.core.errors import RunError

if TYPE_CHECKING:
    from anomaly_vae.core.config import Config


@click.command("sample-data", short_help="Write a CSV to try things on.")
@click.argument("name", type=click.Choice(["digits", "table", "series"]))
@click.option("-o", "--output", metavar="FILE", help="Write here; default: stdout.")
@click.pass_context
def sample_data(ctx: click.Context, /, name: str, output: str | None) -> None:
    """Write a CSV to try things on: scikit-learn's digits or breast_cancer, or a synthetic plant's sensors."""
    from anomaly_vae.cli.console import Console
    from anomaly_vae.core.files import replacing
    from anomaly_vae.data.examples import LABELLED, SAMPLES

    frame = SAMPLES[name]()
    if output is None:
        frame.to_csv(sys.stdout, index=False)
        return
    with replacing(output) as beside:
        frame.to_csv(beside, index=False)
    fit = f"anomaly-vae fit {argument(output)} {LABELLED[name]}"
    Console(ctx.obj["quiet"]).say(f"{output}: {len(frame)} rows; next: {fit}")


@click.command()
@settings
@click.option("-n", "--limit", type=click.IntRange(1), default=20, show_default=True, help="How many.")
@click.option("--sync", is_flag=True, help="Send the runs that wait here because their server went away.")
@click.option("--json", "as_json", is_flag=True, help="One JSON array on stdout instead of the table.")
def runs(limit: int, sync: bool, as_json: bool, **options: Any) -> None:
    """List the latest runs."""
    config = load_config(options)
    from anomaly_vae import tracking
    from anomaly_vae.cli.console import runs_table

    if sync:
        send_waiting(config)
        return
    latest = tracking.list_runs(config, limit)
    click.echo(json.dumps(latest, ensure_ascii=False) if as_json else runs_table(latest))
    if waiting := tracking.waiting(config):
        click.echo(f"note: {len(waiting)} more in {waiting[0].parent}; `anomaly-vae runs --sync` sends them", err=True)


def send_waiting(config: Config) -> None:
    """Sends the runs that wait here and prints a line for each. Raises RunError where one could not be sent."""
    from anomaly_vae import tracking

    results = tracking.sync(config)
    for result in results:
        click.echo(f"{result.run_id}  {result.why or 'sent'}")
    unsent = [result for result in results if result.why]
    if unsent:
        raise RunError(f"{len(unsent)} of {len(results)} runs still wait in {unsent[0].folder.parent}")
    if not results:
        click.echo("nothing waits to be sent")


@click.command("config", short_help="Print the settings as YAML.")
@settings
@click.option("--changed", is_flag=True, help="Only those that differ from the defaults.")
def config_command(changed: bool, **options: Any) -> None:
    """Print the settings, with those of -c and --set applied, as YAML: what each is and may be stands above it."""
    config = load_config(options)
    from anomaly_vae.core.commented import commented
    from anomaly_vae.detector.configuration import names

    click.echo(commented(config, names(), changed), nl=False)


@click.command()
def info() -> None:
    """Versions and devices, for a bug report."""
    from anomaly_vae.cli.console import info_table

    click.echo(info_table())


@click.command()
@settings
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(1, 65535), default=5000, show_default=True, help="Port to listen on.")
@click.option("--open", "opens", is_flag=True, help="Also open the page in a browser.")
def ui(host: str, port: int, opens: bool, **options: Any) -> None:
    """Serve the MLflow UI on the store of the runs, and print the address of the latest run's experiment."""
    config = load_config(options)
    from anomaly_vae import tracking
    from anomaly_vae.tracking import store

    def ready(address: str) -> None:
        click.echo(f"the runs: {address}", err=True)
        if opens:
            click.launch(address)

    store.serve_ui(config, tracking.review_page, ready, host=host, port=port)


COMMANDS = (sample_data, runs, config_command, info, ui)
