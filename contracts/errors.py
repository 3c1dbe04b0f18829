"""The one error tree. Every message gives the value seen, the rule, and the next step.

StackError
  ConfigError      fix the settings; the process does not start            exit 2
  ContractError    the caller's fault, 4xx                                 exit 2
    ShapeError       an array is not what the TensorSpec says
    UnknownItem      an id that the catalogue does not hold
    Unauthorized     no key, or not a valid one
    Forbidden        a valid key, but not for this
    Conflict         the same id with other content
    TooLarge         a body over the limit
    WrongType        a file that is not of a kind we read
    PictureRefused   a picture that is damaged, or not decoded for safety; `reason` says why
    QueryRefused     SQL that may not be run; `reason` says which rule
  ArtifactError    missing, stale or mismatched file                       exit 3
  UpstreamError    Triton, index or database, 5xx                          exit 4
    UpstreamTimeout  no answer within the deadline
    Overloaded       a bounded queue is full; try again after `retry_after_s`
"""

# ruff: noqa: N818 - the names read as what happened; the tree above is what callers catch by

from __future__ import annotations


class StackError(Exception):
    """Root of everything this project raises on purpose.

    Attributes:
        status: HTTP status that the ingress answers with.
        title: short, constant summary (RFC 9457 `title`).
        slug: last part of the problem's `type`.
        exit_code: what the command line ends with.
    """

    status = 500
    title = "Internal error"
    slug = "internal"
    exit_code = 1


class ConfigError(StackError):
    """The settings are wrong; the process must not start."""

    title = "Configuration error"
    slug = "configuration"
    exit_code = 2


class ContractError(StackError):
    """The caller sent something the contract does not allow."""

    status = 422
    title = "Request does not meet the contract"
    slug = "contract"
    exit_code = 2


class ShapeError(ContractError):
    """An array's shape or dtype is not what its TensorSpec says."""

    title = "Wrong shape or type"
    slug = "shape"


class UnknownItem(ContractError):
    """An id that does not exist for this business."""

    status = 404
    title = "Not found"
    slug = "not-found"


class Unauthorized(ContractError):
    """No credential, or one that is not valid."""

    status = 401
    title = "Credential missing or not valid"
    slug = "unauthorized"


class Forbidden(ContractError):
    """A valid credential that does not allow this."""

    status = 403
    title = "Not allowed"
    slug = "forbidden"


class Conflict(ContractError):
    """The same id was used before with other content."""

    status = 409
    title = "Conflict"
    slug = "conflict"


class TooLarge(ContractError):
    """The request body is over the limit."""

    status = 413
    title = "Request too large"
    slug = "too-large"


class WrongType(ContractError):
    """A file that is, by its content, not of a kind that this route reads."""

    status = 415
    title = "File type not supported"
    slug = "wrong-type"


class Refused(ContractError):
    """What a caller sent is not worked on.

    Args:
        message: what is wrong with it, what is allowed, what to do.
        reason: one word for machines.
    """

    title = "Refused"
    slug = "refused"
    reason = "refused"

    def __init__(self, message: str, reason: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason or self.reason


class PictureRefused(Refused):
    """A picture that is damaged, or that is not decoded for safety; `reason` is one of `vision.containers.REASONS`."""

    title = "Picture refused"
    slug = "picture-refused"
    reason = "damaged"


class QueryRefused(Refused):
    """A query that may not be run, or that ran into its bounds; `reason` is one of `nlq.guard.REASONS`."""

    title = "Query refused"
    slug = "query-refused"
    reason = "cannot_run"


class ArtifactError(StackError):
    """A file that should be there is missing, stale or does not match another."""

    status = 503
    title = "Model or data file not usable"
    slug = "artifact"
    exit_code = 3


class UpstreamError(StackError):
    """Something this process depends on failed."""

    status = 503
    title = "A part of the service is unavailable"
    slug = "upstream"
    exit_code = 4


class UpstreamTimeout(UpstreamError):
    """No answer within the deadline."""

    title = "A part of the service took too long"
    slug = "upstream-timeout"


class Overloaded(UpstreamError):
    """A bounded queue is full. Answered with Retry-After.

    Args:
        message: what is full, its bound, and what to do.
        retry_after_s: seconds after which another try is sensible.
    """

    title = "Too many requests at once"
    slug = "overloaded"

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
