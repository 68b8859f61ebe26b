"""Suites that a plug-in of each kind must pass.

Put the folder ``tests`` of this repository on the path, subclass a suite in your package's tests,
and give what it asks for::

    from conformance.inversion import InversionSuite

    class TestMine(InversionSuite):
        method = "mine"
"""
