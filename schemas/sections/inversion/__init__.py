"""Sections of the inversion methods: what ``invert`` holds when its ``method`` is a file's name."""
