"""The verbs of `anomaly-vae latent`, and what they are made of."""
