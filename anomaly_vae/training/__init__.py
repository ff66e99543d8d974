"""The one loop that trains a model: objective, schedules, augmentation, checkpoints."""
