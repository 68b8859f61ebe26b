"""Two runs side by side: what a change of model did."""
