"""The VAE family, its likelihoods, and the frozen backbones. A model gets scaled tensors and returns an `Output`."""
