"""Records as files, pictures and lines."""
