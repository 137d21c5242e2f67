"""Who calls, whether they may, and how much of it. Belongs to the event loop."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

import grpc

from hiddenstate_server.config import Settings, flag
from hiddenstate_server.errors import PermissionDeniedError, UnauthenticatedError
from hiddenstate_server.security.files import WatchedFiles
from hiddenstate_server.security.keys import SCOPES, Key, Keys, read_keys
from hiddenstate_server.security.ledger import Ledger, OwnLedger
from hiddenstate_server.security.limits import Limits, Use, address_of

Context = grpc.aio.ServicerContext[Any, Any]
Behavior = Callable[[Any, Context], Awaitable[Any]]
ANY: Final = frozenset(SCOPES)

_INFERENCE = "/inference.GRPCInferenceService/"
_SCOPES: Final = {
    f"{_INFERENCE}RepositoryModelLoad": frozenset({"manage"}),
    f"{_INFERENCE}RepositoryModelUnload": frozenset({"manage"}),
    # Which of the two depends on the model: see inference/guarded.py.
    f"{_INFERENCE}ModelInfer": frozenset({"predict", "encode"}),
    f"{_INFERENCE}ModelStreamInfer": frozenset({"predict", "encode"}),
}
_SERVICE_SCOPES: Final = {
    "/hiddenstate.v1.LanguageModelService": frozenset({"predict"}),
    "/hiddenstate.v1.SentenceEncoderService": frozenset({"encode"}),
    "/grpc.channelz.v1.Channelz": frozenset({"manage"}),  # it tells the addresses of all callers
}
# Addresses that are remembered, beside those that have streams open.
_MAX_CALLERS = 10_000
_HEADER = "authorization"

_log = logging.getLogger(__name__)


class Caller:
    """Who made a call."""

    def __init__(self, key: Key | None, use: Use) -> None:
        self.key = key
        self.use = use
        self.revoked = False
        self._open: set[asyncio.Task[Any]] = set()

    @property
    def has_streams(self) -> bool:
        """Whether any is open here."""
        return bool(self._open)

    def check_scope(self, needed: frozenset[str], what: str) -> None:
        """Checks that the caller's key, if keys are asked for, has one of the scopes.

        Raises:
            PermissionDeniedError: it has none.
        """
        if self.key is not None and not self.key.scopes & needed:
            raise PermissionDeniedError(
                f"{what} needs the scope {_words(needed)}, "
                f"and this API key ({self.key.name}) has {_words(self.key.scopes, ' and ')}"
            )

    def revoke(self) -> None:
        """Ends the streams that are open."""
        self.revoked = True
        for task in self._open:
            task.cancel()

    async def stream(self, call: Callable[[], Awaitable[Any]]) -> Any:
        """Runs a call that may be long, until it ends or the key is revoked."""
        with self.use.stream(), self._as_open() as task:
            try:
                return await call()
            except asyncio.CancelledError:
                if not self.revoked:
                    raise
                task.uncancel()
                raise UnauthenticatedError("the API key of this stream was revoked or changed") from None

    @contextmanager
    def _as_open(self) -> Any:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            yield task
        finally:
            self._open.discard(task)


CALLER: ContextVar[Caller | None] = ContextVar("CALLER", default=None)
"""Who made the call that runs; None where nobody is asked."""


class Access:
    """Lets callers in."""

    def __init__(self, keys: WatchedFiles[Keys] | None, limits: Limits, ledger: Ledger) -> None:
        self.keys = keys
        self._ledger = ledger
        self._limits = limits
        self._callers: OrderedDict[Key | str, Caller] = OrderedDict()

    @classmethod
    def of(cls, settings: Settings, ledger: Ledger | None = None) -> "Access | None":
        """Returns what the settings ask for; None where everybody may everything. Workers share a ledger.

        Raises:
            ConfigError: the file of keys cannot be used.
        """
        path = settings.keys_file
        keys = None if path is None else WatchedFiles(lambda: read_keys(path), [path])
        if keys is not None and not keys.value.by_name:
            _log.warning("%s %s: holds no key, so that nobody may call until it does", flag("keys_file"), path)
        limits = Limits.of(settings)
        return cls(keys, limits, ledger or OwnLedger()) if keys is not None or any(limits) else None

    def guard(
        self, method: str, behavior: Behavior, *, is_long: bool, deserialize: Callable[[bytes], Any] | None
    ) -> Behavior:
        """Returns a behavior that lets in who may call a method.

        `deserialize` makes the request of its bytes, or returns why it cannot; None where the request is none. So
        nothing is read of what comes from who may not call.
        """

        async def call(request: Any, context: Context) -> Any:
            caller = self.caller(method, context)
            CALLER.set(caller)  # of the call's own task
            if deserialize is not None:
                caller.use.begin_call()
                request = deserialize(request)
                if isinstance(request, Exception):
                    raise request
            return await (caller.stream(lambda: behavior(request, context)) if is_long else behavior(request, context))

        return call

    def caller(self, method: str, context: Context) -> Caller:
        """Returns who makes a call.

        Raises:
            UnauthenticatedError: the caller shows no key that is known.
            PermissionDeniedError: the key is not good for the method.
        """
        service, _, name = method.rpartition("/")
        caller = self._caller(context)
        caller.check_scope(_SCOPES.get(method) or _SERVICE_SCOPES.get(service, ANY), name)
        return caller

    def refresh(self) -> None:
        """Ends the streams of keys that are gone or changed."""
        assert self.keys is not None
        known = self.keys.value.by_name
        for key, caller in list(self._callers.items()):
            if isinstance(key, Key) and known.get(key.name) != key:
                del self._callers[key]
                caller.revoke()

    def _caller(self, context: Context) -> Caller:
        identity = address_of(context.peer()) if self.keys is None else self._key(context, self.keys.value)
        caller = self._callers.get(identity)
        if caller is None:
            caller = self._callers[identity] = self._new(identity)
        else:
            self._callers.move_to_end(identity)
        return caller

    def _new(self, identity: Key | str) -> Caller:
        if isinstance(identity, Key):  # as many as the file has
            return self._caller_of(f"the API key {identity.name}", identity, str(identity))
        for _ in range(len(self._callers) - _MAX_CALLERS + 1):
            name, oldest = self._callers.popitem(last=False)
            if oldest.has_streams:
                self._callers[name] = oldest
        return self._caller_of(f"a caller ({identity})", None, identity)

    def _caller_of(self, name: str, key: Key | None, account: str) -> Caller:
        return Caller(key, Use(name, self._limits, self._ledger.account(account)))

    def _key(self, context: Context, keys: Keys) -> Key:
        values = [value for name, value in context.invocation_metadata() or () if name == _HEADER]
        if not values:
            raise UnauthenticatedError(
                "authorization: is missing; this server asks for an API key: api_key=, --api-key or "
                "HIDDENSTATE_API_KEY, or the header `authorization: Bearer KEY`"
            )
        scheme, _, secret = str(values[0]).partition(" ")
        if len(values) > 1 or scheme.lower() != "bearer":
            raise UnauthenticatedError("authorization: is not one `Bearer KEY`")
        if (key := keys.find(secret.strip())) is None:
            raise UnauthenticatedError("authorization: this API key is not known here; it may have been revoked")
        return key


def _words(scopes: frozenset[str], between: str = " or ") -> str:
    return between.join(scope for scope in SCOPES if scope in scopes)
