"""The parts of a score, one file each: fitted to held-out normals, then nats for each sample."""
