"""How the bundled models were made; `make models` reruns it (hours on two cores)."""
