"""Makes the jobs' processes."""
