"""What leaves a run: tables, arrays, shards, direction files."""
