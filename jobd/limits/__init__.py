"""Holds a job's processes together, limits and counts what they use, and proves that they have ended.

``detect.py`` finds out what this machine has. ``groups.py`` are control groups (cgroups(7)), of version 2 and 1;
``walk.py`` does without them. Each is a :class:`jobd.worker.containment.Containment`. ``capacity.py`` says how much
there is here to be limited.
"""
