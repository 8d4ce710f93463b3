"""Layers of signals over time: frames, spectra, filters, delays."""
