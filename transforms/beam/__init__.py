"""Sums of blocks in Apache Beam. Knows no analysis."""
