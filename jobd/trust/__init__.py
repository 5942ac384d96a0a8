"""Who we are and whom we trust: the files that say so, what they say, and what to do when that changes."""
