"""What can be wrong with what a pool keeps, or with what is asked of it.

JobdError
├── PoolNameError      a name that no key is made of
├── PoolDataError      what a key of the pool holds is not what jobd writes there
├── PoolSchemaError    the prefix holds a newer pool, or something else than a pool
└── WorkerNameError    another machine has this worker's name
"""

from __future__ import annotations

from api.errors import ConfigError, JobdError


class PoolNameError(ConfigError):
    """A name that no key is made of: a prefix, or a worker's."""


class PoolDataError(JobdError):
    """What a key of the pool holds is not what jobd writes there. Nothing is done with it.

    Attributes:
        key: which one.
    """

    def __init__(self, key: bytes, why: str) -> None:
        super().__init__(f"what etcd has at {key.decode(errors='replace')!a} is not a record of jobd: {why}")
        self.key = key


class PoolSchemaError(ConfigError):
    """The prefix holds a newer pool, or something else than a pool. Nothing was touched."""


class WorkerNameError(ConfigError):
    """Another machine has this worker's name."""
