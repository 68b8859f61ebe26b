"""Images to latent codes: the methods, one file each, and what they share."""
