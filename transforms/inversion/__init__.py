"""Images to latent codes: one file an inversion method, found by `transforms.inversion.catalog`."""
