"""What a change of model does to directions."""
