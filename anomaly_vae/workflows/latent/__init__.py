"""The subcommands of `anomaly-vae latent`."""
