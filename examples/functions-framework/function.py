"""Greets who is named, as a function of Google's Functions Framework: a Flask request handler."""

from __future__ import annotations

import flask
import functions_framework


@functions_framework.http
def hello(request: flask.Request) -> flask.typing.ResponseReturnValue:
    name = request.get_data(as_text=True).strip() or "world"
    if name == "nobody":
        # A status of 400 or more is a failure; what is said with it is the output all the same.
        return "there is nobody to greet\n", 422
    return f"Hello, {name}!\n", {"X-Greeted": name}
