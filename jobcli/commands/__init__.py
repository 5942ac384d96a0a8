"""One file a verb: its arguments (``configure``) and what it does (``run``)."""
