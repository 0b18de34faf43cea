"""Everything that can go wrong, as a tree; a class exists for each way to react.

UsherError
├── ClientError                 the sender can mend it: an HTTP 4xx with a SCIM Error body
│   ├── InvalidSyntaxError      400 invalidSyntax  the body is not what the operation needs
│   ├── InvalidValueError       400 invalidValue   a value is missing, of the wrong type or not allowed
│   ├── InvalidFilterError      400 invalidFilter  the filter cannot be parsed or names something unknown
│   ├── InvalidPathError        400 invalidPath    the PATCH path cannot be parsed
│   ├── NoTargetError           400 noTarget       the PATCH path yields nothing to act on
│   ├── MutabilityError         400 mutability     the attribute may not be changed so
│   ├── TooManyError            400 tooMany        the answer would be too large
│   ├── InvalidCursorError      400 invalidCursor  the cursor was not made here, or not for this query
│   ├── ExpiredCursorError      400 expiredCursor  the cursor is too old
│   ├── InvalidCountError       400 invalidCount   the count is malformed or not that of the first page
│   ├── InvalidQueryError       400                a search of the audit log cannot be read, or asks for too much
│   ├── UnauthenticatedError    401                no token, or one that is not good (any more)
│   ├── ForbiddenError          403                the token is good but not for this
│   ├── NotFoundError           404                no such resource or route
│   ├── MethodNotAllowedError   405                the route exists, the method does not
│   ├── BodyTimeoutError        408                the body did not arrive in time
│   ├── ConflictError           409                what it depends on is not there
│   ├── UniquenessError         409 uniqueness     a value that must be unique is taken
│   ├── PreconditionError       412                If-Match names another version
│   ├── TooLargeError           413                the body or its content is over a limit
│   ├── MediaTypeError          415                the body is of a type that is not spoken here
│   └── RateLimitError          429                the token asks for more than one may
├── UnavailableError            503: a server behind us does not answer; the same request may succeed later
├── UnsupportedError            501: the protocol has it, this server does not
├── JobError                    what a job handler raises to say what becomes of the attempt
│   ├── RetryableJobError       try again later
│   └── PermanentJobError       trying again cannot help: straight to the dead letters
└── UsageError                  a person at the terminal asked for something that cannot be done
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Sequence

ERROR_SCHEMA = "urn:ietf:params:scim:api:messages:2.0:Error"


class UsherError(Exception):
    """Something went wrong in a way that Usher knows about."""

    def __init__(self, detail: str | None = None) -> None:
        self.detail = detail or (type(self).__doc__ or "").strip().splitlines()[0]
        super().__init__(self.detail)


class HttpError(UsherError):
    """An error that has an HTTP answer of its own (RFC 7644 §3.12)."""

    status: ClassVar[int] = 500
    scim_type: ClassVar[str | None] = None

    def body(self) -> dict[str, Any]:
        """Return the SCIM Error message (RFC 7644 §3.12); ``status`` is a string there."""
        body: dict[str, Any] = {"schemas": [ERROR_SCHEMA], "status": str(self.status)}
        if self.scim_type:
            body["scimType"] = self.scim_type
        body["detail"] = self.detail
        return body


class ClientError(HttpError):
    """The request cannot be carried out as it was sent."""

    status = 400


class InvalidSyntaxError(ClientError):
    """The body is not valid JSON or not of the shape that the operation needs."""

    scim_type = "invalidSyntax"


class InvalidValueError(ClientError):
    """A required value is missing, or a value is of the wrong type."""

    scim_type = "invalidValue"


class InvalidFilterError(ClientError):
    """The filter cannot be parsed, or names an attribute or operator that is not supported."""

    scim_type = "invalidFilter"


class InvalidPathError(ClientError):
    """The path of a PATCH operation cannot be parsed or names an unknown attribute."""

    scim_type = "invalidPath"


class NoTargetError(ClientError):
    """The path of a PATCH operation does not yield an attribute to act on."""

    scim_type = "noTarget"


class MutabilityError(ClientError):
    """The attribute is read-only, immutable or required and may not be changed so."""

    scim_type = "mutability"


class TooManyError(ClientError):
    """The filter yields more results than the server is willing to return."""

    scim_type = "tooMany"


class InvalidCursorError(ClientError):
    """The cursor is not one of this query; begin again without one."""

    scim_type = "invalidCursor"


class ExpiredCursorError(ClientError):
    """The cursor has expired; begin again without one."""

    scim_type = "expiredCursor"


class InvalidCountError(ClientError):
    """The count is not one that this page can have."""

    scim_type = "invalidCount"


class InvalidQueryError(ClientError):
    """The search cannot be read."""

    def __init__(self, detail: str | None = None, *, position: int | None = None, expected: Sequence[str] = ()) -> None:
        """Take a sentence, the place in the text that it is about (from 0), and the words that may stand there."""
        super().__init__(detail)
        self.position = position
        self.expected = tuple(expected)


class UnauthenticatedError(ClientError):
    """A valid bearer token is required."""

    status = 401


class ForbiddenError(ClientError):
    """The token is valid but does not allow this."""

    status = 403


class NotFoundError(ClientError):
    """There is no such resource."""

    status = 404


class MethodNotAllowedError(ClientError):
    """The method is not supported here."""

    status = 405


class BodyTimeoutError(ClientError):
    """The body of the request did not arrive in time."""

    status = 408


class ConflictError(ClientError):
    """The request depends on something that is not there."""

    status = 409


class UniquenessError(ClientError):
    """A value that must be unique is already taken."""

    status = 409
    scim_type = "uniqueness"


class PreconditionError(ClientError):
    """The resource has another version than the one that the request names."""

    status = 412


class TooLargeError(ClientError):
    """The request is over a limit."""

    status = 413


class MediaTypeError(ClientError):
    """The body must be sent as application/scim+json or application/json."""

    status = 415


class RateLimitError(ClientError):
    """Too many requests for one token; send this one again after the time in Retry-After."""

    status = 429

    def __init__(self, *, retry_seconds: int) -> None:
        """Take when to come back."""
        super().__init__()
        self.retry_seconds = retry_seconds


class UnavailableError(HttpError):
    """A server that Usher needs does not answer; the same request may succeed later."""

    status = 503


class UnsupportedError(HttpError):
    """The protocol has this operation, this server does not."""

    status = 501


class JobError(UsherError):
    """A job's attempt failed."""

    code: str

    def __init__(self, code: str, detail: str | None = None) -> None:
        """Take a bounded, non-personal code for metrics and grouping, and a sentence for operators."""
        super().__init__(detail)
        self.code = code


class RetryableJobError(JobError):
    """The attempt failed in a way that may pass."""


class PermanentJobError(JobError):
    """The attempt failed in a way that no later attempt can mend."""


class UsageError(UsherError):
    """The command cannot be carried out as it was given."""
