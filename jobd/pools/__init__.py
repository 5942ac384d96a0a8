"""Where the broker's workers come from."""
