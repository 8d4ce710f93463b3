"""Sources of batches: arrays, iterables and loaders, with positions to resume from."""
