"""What an operator's monitoring is told: numbers that others keep, read when somebody asks for them.

Loaded only where metrics are wanted: what formats them takes 30 ms to load, and a server starts in little more than
half a second.
"""
