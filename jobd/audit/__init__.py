"""The audit log: what was done, in a file of its own, each line vouching for all before it."""
