"""What each command does: it makes or reads files, and returns what is to be printed."""
