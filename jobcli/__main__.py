"""``python -m jobcli``."""

import sys

from jobcli.cli import main

sys.exit(main())
