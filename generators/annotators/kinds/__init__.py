"""What annotators measure: a kind each."""
