"""Suites that a plug-in of each kind must pass. Subclass one in your package's tests, and give what
its fixtures ask for."""
