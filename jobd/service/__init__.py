"""The contract's methods on top of the broker: one short function for each."""
