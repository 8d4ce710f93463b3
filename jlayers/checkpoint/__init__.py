"""CheckpointManager: trees of arrays in files, written atomically and restored strictly."""
