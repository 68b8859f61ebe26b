"""Networks of the kinds that other projects train, small."""
