"""What directions do to pictures, measured and shown."""
