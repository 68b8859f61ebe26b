"""Images and what is known of them, wherever they lie."""
