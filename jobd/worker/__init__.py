"""The worker library: runs processes, supervises them, records their output. Needs no network.

Ground floor: it names its ports (``ports``: launch, output, journal) and knows none of those who implement them.
"""
