"""An encoder for any generator, trained on the generator's own samples."""
