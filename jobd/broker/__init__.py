"""Takes jobs, queues them, hands them to workers, and knows what became of each."""
