"""promote: from a fitted detector to one that is in use."""

from __future__ import annotations

from typing import Any

import click

from anomaly_vae.cli.common import load_config, require_there, settings
from anomaly_vae.errors import RunError


@click.command(short_help="Make the model of a run the champion, if it is no worse.")
@click.argument("run", metavar="RUN_ID")
@click.argument("data", required=False)
@settings
@click.option("--label", metavar="COLUMN", help="Label column; default: the one of the fit.")
@click.option("--normal", multiple=True, metavar="VALUE", help="Label value that is normal; repeatable.")
@click.option("--name", metavar="NAME", help="Registered model anomaly-vae-NAME; default: the run's experiment.")
@click.option("--force", is_flag=True, help="Promote also what is worse than the champion.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout instead of the table.")
def promote(
    run: str, data: str | None, label: str | None, normal: tuple[str, ...], name: str | None, force: bool,
    as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """Register the model of a run and make it the champion, after evaluating both on DATA.

    DATA is labelled; by default what the run was last evaluated on. A model whose AUROC is below the champion's is
    refused, with exit code 1. The champion scores with -m models:/anomaly-vae-NAME@champion.
    """
    config = load_config(options)
    if data is not None:
        require_there(data)
    from anomaly_vae import production
    from anomaly_vae.console import promotion_table

    found = production.promote(run, data, config, label=label, normal=normal, name=name, force=force)
    click.echo(found.to_json() if as_json else promotion_table(found))
    if found.refused:
        raise RunError(found.refused)


COMMANDS = (promote,)
