"""From a trained model to nats: a score is the sum of its `parts`, and its bits do not depend on how data is read."""
