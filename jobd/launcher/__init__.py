"""Makes the jobs' processes, holds their pipes, and learns their exits, in a process that outlives the server.

``front.py`` is the process that people start. ``launcher.py`` and what it imports are the launcher: standard library
only, no network, small enough to read in one sitting. ``link.py`` is how the server speaks to it, ``control.py`` how
it is found. ``local.py`` makes processes without a launcher, for the worker library alone and for tests.
"""
