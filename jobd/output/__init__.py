"""What jobs write: recorded on disk in the order read, given to any number of followers."""
