"""Makes the jobs' processes, holds their pipes, and learns their exits, in a process that outlives the server.

Two sides. ``launcher.py``, ``channel.py``, ``children.py``, ``protocol.py``, ``procfs.py`` and ``upgrade.py`` are the
launcher: standard library only, no network, small enough to read in one sitting. ``link.py`` is how the server speaks
to it. ``local.py`` makes processes without a launcher, for the worker library alone and for tests.
"""
