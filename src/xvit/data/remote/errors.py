"""What the errors of fsspec's libraries mean: try again, an unusable video, or credentials that the user has to see to.

Their classes are recognised by name, because the libraries are optional.
"""

import socket
import ssl
from collections.abc import Iterator
from typing import Any

from xvit.utils.addresses import name_place
from xvit.utils.errors import VideoError, XViTError, one_line

_BUSY = {408, 425, 429}  # HTTP statuses below 500 after which a request may succeed
_BUSY_CODES = {"SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable", "Throttling", "ThrottlingException"}
_CUT_SHORT = {"ClientPayloadError", "IncompleteRead", "IncompleteReadError", "ResponseStreamingError"}
_BUSY_ERRORS = {"ClientConnectionError", "HTTPClientError", "TransportError", "ServiceRequestError", "ConnectionError"}
_BUSY_ERRORS |= {"ServiceResponseError", "TimeoutError", "ResponseParserError"}

_NO_CREDENTIALS = {"NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError", "TokenRetrievalError"}
_NO_CREDENTIALS |= {"CredentialRetrievalError", "CredentialUnavailableError", "ProfileNotFound", "SSOTokenLoadError"}
_WRONG_CREDENTIALS = {"ClientAuthenticationError", "RefreshError", "UnauthorizedSSOTokenError"}
_WRONG_CODES = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "TokenRefreshRequired"}
_WRONG_CODES |= {"InvalidClientTokenId"}
_HOW_TO_LOG_IN = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE, or log in (aws configure, aws sso login); "
    "for a public bucket, set FSSPEC_S3_ANON=true",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS, or log in (gcloud auth application-default login)",
    "az": "set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or AZURE_STORAGE_CONNECTION_STRING",
    "hf": "set HF_TOKEN, or log in (hf auth login)",
}


class CredentialsError(XViTError):
    """Credentials are missing or not accepted, so that no video of a place can be read."""


class MissingVideoError(VideoError):
    """There is no file at the address."""


def explain(address: str, error: Exception) -> XViTError | None:
    """The error to raise for one of a library; None if the same call may succeed later."""
    chain = list(_causes(error))
    names = {base.__name__ for cause in chain for base in type(cause).__mro__}
    status = next(filter(None, map(_status, chain)), 0)
    code = next(filter(None, map(_code, chain)), "")
    if names & _NO_CREDENTIALS or "Must provide either a connection_string" in str(error):  # adlfs has no class for it
        return _credentials_error(address, "no credentials found")
    if names & _WRONG_CREDENTIALS or code in _WRONG_CODES:
        return _credentials_error(address, f"the credentials are not accepted ({code or type(error).__name__})")
    if final := _final_reason(chain, names, status, code):
        return VideoError(address, final)
    # The status of a body that is cut short is none of the server's: aiohttp calls it 400.
    if status >= 500 or status in _BUSY or code in _BUSY_CODES or names & _CUT_SHORT:
        return None
    if not status and names & _BUSY_ERRORS:
        return None
    if status in (401, 403) or isinstance(error, PermissionError):
        return VideoError(address, f"access denied ({_shown(status, code)}check the permissions, or the address)")
    if status in (404, 410) or (not status and "FileNotFoundError" in names):
        return MissingVideoError(address, f"not found ({_shown(status, code)}no such file, bucket or host)")
    return VideoError(address, f"cannot be downloaded ({_shown(status, code)}{describe(error)})")


def describe(error: Exception) -> str:
    """The message of the first cause that has one, with its type, in a short line."""
    texts = [one_line(cause, name=True, length=160) for cause in _causes(error) if str(cause)]
    return texts[-1] if texts else type(error).__name__


def needs_request(error: Exception) -> bool:
    """Whether an error says nothing but "forbidden": the answer to a HEAD request has no body that could say more."""
    status = next(filter(None, map(_status, _causes(error))), 0)
    return isinstance(error, PermissionError) or status in (400, 403)


def _final_reason(chain: list[BaseException], names: set[str], status: int, code: str) -> str:
    """Why another attempt would fail too, for errors that look like those of a connection."""
    for cause in chain:
        if type(cause).__name__ == "RefusedAddressError":
            return str(cause)
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"the certificate of the server is not valid ({cause.verify_message})"
        if isinstance(cause, socket.gaierror) and cause.errno != socket.EAI_AGAIN:
            return "no such host"
    if "FileExpired" in names:
        return "changed while it was downloaded"
    return "too many redirects" if "TooManyRedirects" in names else ""


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what led to it, at most ten."""
    for _ in range(10):
        yield error
        following = error.__cause__ or error.__context__
        if following is None:
            return
        error = following


def _status(error: BaseException) -> int:
    """The HTTP status that an error of any of the libraries holds; 0 if none."""
    response = getattr(error, "response", None)
    metadata = response.get("ResponseMetadata", {}) if isinstance(response, dict) else {}
    values: list[Any] = [metadata.get("HTTPStatusCode"), getattr(response, "status_code", None)]
    names = ("status", "status_code") if hasattr(error, "status") else ("status_code", "code")
    values += [getattr(error, name, None) for name in names]
    return next((value for value in values if type(value) is int and 100 <= value < 600), 0)


def _code(error: BaseException) -> str:
    """The code of an error of S3, such as NoSuchKey; empty for others, and for the bare number of a HEAD request."""
    response = getattr(error, "response", None)
    code = response.get("Error", {}).get("Code", "") if isinstance(response, dict) else ""
    return "" if str(code).isdigit() else str(code)


def _shown(status: int, code: str) -> str:
    return f"{code or status}: " if code or status else ""


def _credentials_error(address: str, reason: str) -> CredentialsError:
    advice = _HOW_TO_LOG_IN.get(address.partition(":")[0].lower(), "check them")
    return CredentialsError(f"{name_place(address)}: {reason}: {advice}")
