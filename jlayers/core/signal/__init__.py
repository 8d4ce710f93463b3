"""Signals over time: frames, spectra, filters; arrays (batch, time, ...)."""
