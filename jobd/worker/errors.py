"""What can go wrong with a job, before anyone thinks of statuses or messages for peers.

WorkerError                (a JobdError)
├── InvalidSpecError       the spec cannot be accepted; names every field that is wrong
├── LaunchError            the process could not be made; carries the reason
├── LauncherGoneError      the launcher has ended
├── JobNotFoundError       no such job
├── InvalidIdError         what should be an id is none
├── AmbiguousIdError       the prefix of an id that several jobs have
├── JobEndedError          it has ended: there is nothing to attach to
├── NotAttachableError     the job was started with nothing to attach to
├── ForbiddenUserError     the job runs as a user whom the caller may run no jobs as
├── AlreadyAttachedError   somebody else is attached to the job
├── AttachmentTakenOverError … and now this one's attachment is somebody else's
├── StdinClosedError       bytes for a stdin that was closed
├── StdinIsTerminalError   a terminal cannot be half closed
├── NoTerminalError        a window size for a job that has no terminal
├── StopFailedError        processes of the job are still there after SIGKILL
├── InvalidTransitionError a job was asked to go where its lifecycle has no way (a bug)
├── OutputDamagedError     recorded output cannot be read back
├── OutputUnavailableError recorded output cannot be read now
├── OffsetBeyondEndError   an offset after the last recorded byte
├── RequestIdReusedError   a request_id that already stands for another request
├── NoPoolError            what is asked for is about a pool, and there is none
├── PoolUnavailableError   what the pool is kept in cannot be read or written now
│   └── PoolFullError      … since it takes nothing more
├── NoSuchWorkerError      the pool knows no worker of that name
├── WorkerIsThereError     a job is to be given up whose worker is there
├── QueueFullError         too many jobs wait
├── TooManyJobsError       whoever asks has too many jobs that have not ended
├── RecordDamagedError     what the job store has of a job is not what was written
└── StoreError             the job store cannot be written or read now
"""

from __future__ import annotations

from api.errors import FieldViolation, JobdError


class WorkerError(JobdError):
    """Anything that goes wrong with a job."""


class InvalidSpecError(WorkerError):
    """The spec cannot be accepted. ``violations`` names each field and what is wrong with it."""

    def __init__(self, violations: tuple[FieldViolation, ...]) -> None:
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in violations))
        self.violations = violations


class LaunchError(WorkerError):
    """The process could not be made.

    Attributes:
        reason: a member of :class:`jobd.worker.job.Reason`.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class LauncherGoneError(WorkerError):
    """The launcher has ended: nothing can be started any more."""

    def __init__(self) -> None:
        super().__init__("the launcher has ended; jobd must be restarted to start jobs again")


class JobNotFoundError(WorkerError):
    """No job has this id."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"there is no job {job_id}; 'jobcli list' shows those that there are")
        self.job_id = job_id


class InvalidIdError(WorkerError):
    """What stands where a job id should is none."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"{job_id[:64]!a} is not a job id: give a UUID, or at least 4 of its first characters")


class AmbiguousIdError(WorkerError):
    """Several jobs have ids that begin like this."""

    def __init__(self, prefix: str) -> None:
        super().__init__(f"more than one job has an id that begins with {prefix}; give more of it")


class JobNotRunningError(WorkerError):
    """The job has no process: it waits, or it has ended."""

    def __init__(self, job_id: str, state: str) -> None:
        super().__init__(f"job {job_id} is {state}: there is no process to send a signal to")


class JobEndedError(WorkerError):
    """The job has ended: there is nothing to attach to."""

    def __init__(self, job_id: str, state: str) -> None:
        super().__init__(f"job {job_id} is {state}: there is nothing to attach to; 'jobcli stream' shows its output")


class NotAttachableError(WorkerError):
    """The job was started without a stdin that somebody can write to."""

    def __init__(self, job_id: str) -> None:
        super().__init__(
            f"job {job_id} was started with neither a stdin nor a terminal to attach to; 'jobcli stream' shows what it "
            "writes"
        )


class ForbiddenUserError(WorkerError):
    """The job runs as somebody whom the caller may run no jobs as, and to write to it could be just that."""

    def __init__(self, job_id: str, user: str, caller: str) -> None:
        super().__init__(f"job {job_id} runs as {user}, and {caller} may not run jobs so, nor write to them")


class AlreadyAttachedError(WorkerError):
    """Somebody else is attached to the job.

    Attributes:
        by: who.
    """

    def __init__(self, job_id: str, by: str) -> None:
        super().__init__(
            f"{by} is attached to job {job_id}, and only one can be at a time; take over to end that attachment"
        )
        self.by = by


class AttachmentTakenOverError(WorkerError):
    """Somebody else has taken the attachment over."""

    def __init__(self, by: str) -> None:
        super().__init__(f"{by} has taken the attachment over; the job goes on")


class StdinClosedError(WorkerError):
    """There are bytes for a stdin that was closed."""

    def __init__(self) -> None:
        super().__init__("the job's stdin was closed; it takes no more bytes")


class StdinIsTerminalError(WorkerError):
    """A terminal cannot be half closed."""

    def __init__(self) -> None:
        super().__init__("the job's stdin is a terminal, which cannot be closed; send its end-of-file character (^D)")


class NoTerminalError(WorkerError):
    """The job has no terminal."""

    def __init__(self) -> None:
        super().__init__("the job has no terminal, and so no window size")


class JobNotEndedError(WorkerError):
    """The job has not ended: it cannot be deleted."""

    def __init__(self, job_id: str, state: str) -> None:
        super().__init__(f"job {job_id} is {state}: stop it before you delete it")


class StopFailedError(WorkerError):
    """Processes of the job are still there after SIGKILL (one in uninterruptible sleep, for example)."""


class OutputDamagedError(WorkerError):
    """Output that was recorded cannot be read back: its file is gone, or is damaged in the middle."""

    def __init__(self, job_id: str, offset: int) -> None:
        super().__init__(f"the recorded output of job {job_id} is damaged at offset {offset}")


class OutputUnavailableError(WorkerError):
    """Output that was recorded cannot be read now: the disk fails."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"the recorded output of job {job_id} cannot be read now")


class OffsetBeyondEndError(WorkerError):
    """The offset asked for lies after the last recorded byte."""

    def __init__(self, job_id: str, offset: int, end: int) -> None:
        super().__init__(f"offset {offset} is beyond the end of the output of job {job_id}, which is at {end}")
        self.end = end


class InvalidTransitionError(WorkerError):
    """The lifecycle has no such transition. Always a bug of the caller."""


class RequestIdReusedError(WorkerError):
    """The request_id stands for another request; ``differs`` says in what: a field of the spec, or the principal."""

    def __init__(self, request_id: str, job_id: str, differs: str) -> None:
        super().__init__(
            f"request_id {request_id!a} was used before, for job {job_id}, with a different {differs}; "
            "use a new request_id for a new job"
        )
        self.job_id = job_id
        self.differs = differs


class NoPoolError(WorkerError):
    """What is asked for is about a pool of machines."""

    def __init__(self) -> None:
        super().__init__("this jobd is not in a pool")


class PoolUnavailableError(WorkerError):
    """What the pool is kept in cannot be read or written now, or nobody knows whether it was."""

    def __init__(self, message: str = "the pool cannot be reached now; its jobs go on, call again") -> None:
        super().__init__(message)


class PoolFullError(PoolUnavailableError):
    """What the pool is kept in takes nothing more, until an operator has made room."""

    def __init__(self) -> None:
        super().__init__("the pool's etcd is full; its jobs go on, call again when an operator has made room")


class NoSuchWorkerError(WorkerError):
    """The pool knows no worker of that name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the pool knows no worker {name[:100]!a}; 'jobcli workers' lists them")


class WorkerGoneError(WorkerError):
    """The worker that has a job is not heard of any more."""

    def __init__(self, worker: str) -> None:
        super().__init__(f"the worker {worker} cannot be reached now; its jobs go on, call again")


class WorkerIsThereError(WorkerError):
    """A job is to be given up whose worker is there, or that nobody has yet."""

    def __init__(self, job_id: str, worker: str) -> None:
        whose = f"its worker {worker} is there" if worker else "no worker has it yet"
        super().__init__(f"job {job_id} is not given up: {whose}; stop it")


class JobRunsAgainError(WorkerError):
    """A job of a pool was lost, and the pool is about to hear of it and to run the job again."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"job {job_id} was lost, and is about to be run again; call again")


class RunLostError(WorkerError):
    """A run of a job was lost, and the job is run again: its output does not go on."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"this run of job {job_id} was lost, and the job is run again; stream it from its beginning")


class QueueFullError(WorkerError):
    """So many jobs wait for a free worker that no more are accepted."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"{limit} jobs wait already; try again when some of them have run")


class TooManyJobsError(WorkerError):
    """Whoever asks for a job has as many that have not ended as it may have."""

    def __init__(self, by: str, limit: float) -> None:
        super().__init__(f"at most {limit:.10g} jobs of {by} may run or wait at a time; wait until one has ended")


class StoreError(WorkerError):
    """The job store cannot be written or read now; nothing was changed."""


class RecordDamagedError(WorkerError):
    """What the job store has of a job is not what was written there."""

    def __init__(self) -> None:
        super().__init__("the record of a job is damaged; the server's log says which")
