"""As much of a browser as the demo's programs need: cookies, the CSRF token, JSON answers. One connection a request."""

import http.client
import json
import secrets
from http.cookies import SimpleCookie
from typing import Any, Final
from urllib.parse import urlencode

from demo.stack import HOST

TIMEOUT: Final = 15.0  # seconds for one request; SQLite's writers may wait for each other


class Answered(Exception):
    """A request was answered with an error; `status` and the text that came."""

    def __init__(self, path: str, status: int, text: str) -> None:
        super().__init__(f"{path} answered {status}: {text[:300]}")
        self.status = status


class Browser:
    """Someone who uses the demo's pages.

    Args:
        port: of the server to ask.
        session: the key of a session that was begun before.
    """

    def __init__(self, port: int, session: str | None = None) -> None:
        # Any token will do, as long as cookie and header agree: that is what another site cannot bring about.
        self.cookies = {"csrftoken": secrets.token_hex(16)}
        if session is not None:
            self.cookies["sessionid"] = session
        self._port = port

    def sign_in(self, name: str) -> str:
        """Sign in with one click; returns the session's key."""
        self._ask("POST", "/sign-in", {"name": name})
        return self.cookies["sessionid"]

    def get(self, path: str) -> dict[str, Any]:
        """Raises: Answered, OSError, http.client.HTTPException."""
        return self._json("GET", path, None)

    def post(self, path: str, **fields: object) -> dict[str, Any]:
        """Raises: Answered, OSError, http.client.HTTPException."""
        return self._json("POST", path, fields)

    def _json(self, method: str, path: str, fields: dict[str, object] | None) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self._ask(method, path, fields))
        return answer

    def _ask(self, method: str, path: str, fields: dict[str, object] | None) -> str:
        connection = http.client.HTTPConnection(HOST, self._port, timeout=TIMEOUT)
        headers = {
            "Cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items()),
            "Connection": "close",
            "X-CSRFToken": self.cookies["csrftoken"],
            "Content-Type": "application/x-www-form-urlencoded",
        }
        try:
            connection.request(method, path, None if fields is None else urlencode(fields), headers)
            response = connection.getresponse()
            text = response.read().decode(errors="replace")
            for header in response.headers.get_all("Set-Cookie") or ():
                self.cookies |= {name: morsel.value for name, morsel in SimpleCookie(header).items()}
        finally:
            connection.close()
        if response.status >= 400:
            raise Answered(path, response.status, text)
        return text
