"""Training: the loop, the objective, schedules, augmentation, checkpoints."""
