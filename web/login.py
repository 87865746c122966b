"""Login by name and password: slow to check, remembered for a while, with a limit on wrong guesses."""

import hashlib
import hmac
import math
import secrets
import time
from collections import OrderedDict
from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from threading import Lock

from limits import RateLimitItemPerSecond
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from werkzeug.exceptions import TooManyRequests
from werkzeug.security import check_password_hash

from web.audit import note

_REMEMBERED_SECONDS = 600.0
_REMEMBERED = 1000  # logins; the oldest are forgotten
_FAILURES, _FAILURE_SECONDS = 10, 600  # this many in that time, for one address and for one name
_DRAWERS = 4096  # counters of failures, shared by hash: one for each name would let strangers fill the memory


class Login:
    """Check names and passwords.

    The password hash is slow by design: a check takes tens of milliseconds. An accepted login is therefore
    remembered, together with its address: the same password from elsewhere is checked like any guess.
    """

    def __init__(
        self,
        users: Mapping[str, str],
        remembered_seconds: float = _REMEMBERED_SECONDS,
        failure_seconds: int = _FAILURE_SECONDS,
    ) -> None:
        self._users = users
        self._secret = secrets.token_bytes(32)
        self._remembered: OrderedDict[bytes, float] = OrderedDict()  # a digest of each login, and until when
        self._seconds = remembered_seconds
        self._limit = RateLimitItemPerSecond(_FAILURES, failure_seconds)
        self._failures = MovingWindowRateLimiter(MemoryStorage())
        self._checking = Lock()

    def check(self, name: str, password: str, address: str) -> bool:
        """Return whether this is the user's password; raise TooManyRequests after too many failures.

        One login is checked at a time: guesses sent together cannot outrun the counter or occupy every core.
        """
        place = self._drawer("address", _network(address))
        user = self._drawer("name", name)
        self._refuse_if_full(place)
        login = self._digest(name, password, address)
        if self._remembered.get(login, 0) > time.monotonic():
            return True
        with self._checking:
            self._refuse_if_full(place, user)
            right = self._is_right(name, password)
            if right:
                self._remember(login)
            else:
                for drawer in (place, user):
                    self._failures.hit(self._limit, drawer)
        # Do not note an unknown name: it may be a password typed into the wrong field.
        note("login", user=name if name in self._users else None, result="done" if right else "refused")
        return right

    def _is_right(self, name: str, password: str) -> bool:
        """Return whether name and password match, taking as long for an unknown name as for a known one."""
        some = next(iter(self._users.values()))
        return check_password_hash(self._users.get(name, some), password) and name in self._users

    def _remember(self, login: bytes) -> None:
        self._remembered[login] = time.monotonic() + self._seconds
        self._remembered.move_to_end(login)
        if len(self._remembered) > _REMEMBERED:
            self._remembered.popitem(last=False)

    def _refuse_if_full(self, *drawers: str) -> None:
        for drawer in drawers:
            if not self._failures.test(self._limit, drawer):
                again = self._failures.get_window_stats(self._limit, drawer).reset_time - time.time()
                raise TooManyRequests(retry_after=max(1, math.ceil(again)))

    def _drawer(self, kind: str, of: str) -> str:
        """Return the counter of a name or address; strangers cannot compute it, so cannot block a user."""
        number = int.from_bytes(self._digest(kind, of)[:8]) % _DRAWERS
        return f"{kind} {number}"

    def _digest(self, *words: str) -> bytes:
        return hmac.digest(self._secret, repr(words).encode(), hashlib.sha256)


def _network(address: str) -> str:
    """Return what identifies a visitor's network: an IPv6 visitor can choose among 64 bits of addresses."""
    try:
        return str(ip_network((address, 64), strict=False)) if ip_address(address).version == 6 else address
    except ValueError:
        return address
