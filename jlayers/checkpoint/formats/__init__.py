"""File formats of arrays. ``base`` has the interface and the registry; each other file a format."""
