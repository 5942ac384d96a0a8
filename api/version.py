"""Which version of jobd this is."""

VERSION = "0.1.0"
