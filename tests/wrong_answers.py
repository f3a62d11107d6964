"""What a store may answer wrongly for one key while it answers others: rules for an endpoint, by name.

Each comes with what the dead letter names of it; "" stands for the file alone.
"""

from tests.chaos.interposer import Answer


def status(code, *methods):
    """An answer without a body to some methods."""
    return lambda request, forward: Answer(code) if request.method in methods else forward(request)


def worded(code, word, *methods):
    body = f"<?xml version='1.0'?><Error><Code>{word}</Code><Message>no</Message></Error>".encode()
    answer = Answer(code, body, (("Content-Type", "application/xml"),))
    return lambda request, forward: answer if request.method in methods else forward(request)


def altered(change):
    """The store's own answer with other headers (a mapping to a value, or None to leave one out)."""

    def fault(request, forward):
        found = forward(request)
        headers = {name: value for name, value in found.headers if name.lower() not in change}
        headers |= {name: value for name, value in change.items() if value is not None}
        return Answer(found.status, found.body, tuple(headers.items()), length=found.length)

    return fault


def cut(request, forward):
    found = forward(request)
    return Answer(found.status, found.body, found.headers, cut=3) if request.method == "GET" else found


def reset(request, forward):
    raise ConnectionResetError


def other_length(request, forward):
    found = forward(request)
    return Answer(found.status, found.body + b"more", found.headers) if request.method == "GET" else found


# answers that park the row of the key at once, and a word of the dead letter's message
AT_ONCE = {
    "400 to HEAD": (status(400, "HEAD"), "400"),
    "401 to HEAD": (status(401, "HEAD"), "401"),
    "403 to HEAD": (status(403, "HEAD"), "403"),
    "403 to GET, as without the key of KMS": (worded(403, "AccessDenied", "GET"), "AccessDenied"),
    "405 to HEAD": (status(405, "HEAD"), "405"),
    "409 to GET": (worded(409, "OperationAborted", "GET"), "OperationAborted"),
    "416 to GET": (worded(416, "InvalidRange", "GET"), "InvalidRange"),
    "404 to GET, and 200 to HEAD": (worded(404, "NoSuchKey", "GET"), "HEAD of"),
    "no ETag": (altered({"etag": None}), "without an ETag"),
    "a type that is not ASCII": (altered({"content-type": "image/jpég"}), "ContentType"),
}
# what may pass by itself: tried a few times first
AFTER_TRIES = {
    "500 to GET": (worded(500, "InternalError", "GET"), "InternalError"),
    "500 to HEAD": (status(500, "HEAD"), "500"),
    "503 to GET": (worded(503, "SlowDown", "GET"), "SlowDown"),
    "429 to GET": (worded(429, "TooManyRequests", "GET"), "TooManyRequests"),
    "a body that ends too soon": (cut, ""),
    "a connection that breaks": (reset, ""),
    "other bytes than HEAD promises": (other_length, "HEAD"),
}
