"""Sections of the run specification."""
