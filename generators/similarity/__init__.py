"""How alike pictures and codes are, to train by: the losses of Yu and Wang (2021)."""
