"""Runs on a disk."""
