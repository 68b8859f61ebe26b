"""How the bundled models were made; ``make models`` does it again (two hours on two cores)."""
