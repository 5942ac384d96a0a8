"""Other machines of the pool, spoken to as their clients speak to them, on behalf of those clients."""
