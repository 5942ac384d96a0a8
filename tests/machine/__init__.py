"""A machine of its own, for what the others lack: control groups of version 2 with controllers, and systemd.

``nox -s machine`` makes the disk of a Debian (``image.py``), runs it in qemu (``boot.py``), and in it groups of tests
(``guest.py``): those of other folders that need such control groups, and those of this folder, of jobd as a service.
Those of this folder are collected in such a machine only.
"""
