"""Zarr without its event loop: the same accesses in the order they are asked for."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import zarr.core.sync

import schemas.directions.check
import schemas.store.check  # they hold zarr's function: to be loaded before it is patched
import schemas.store.handle  # noqa: F401

SYNC = zarr.core.sync.sync


@contextmanager
def direct_zarr():
    """Zarr works in this thread without a loop, one thing after the other, and nothing waits for
    the disk. Tests make thousands of small accesses, and a loop costs more than they do."""
    at_once = AtOnce()
    rooms = ("zarr.", "schemas.")
    with ExitStack() as stack:
        for module in [sys.modules[name] for name in list(sys.modules) if name.startswith(rooms)]:
            if getattr(module, "sync", None) is SYNC:
                patched = patch.object(module, "sync", lambda c, loop=None, timeout=None: value(c))
                stack.enter_context(patched)
            if getattr(module, "asyncio", None) is asyncio:
                stack.enter_context(patch.object(module, "asyncio", at_once))
            if getattr(module, "gather", None) is asyncio.gather:
                stack.enter_context(patch.object(module, "gather", at_once.gather))
        stack.enter_context(patch.object(os, "fsync", lambda descriptor: None))
        yield


def value(coroutine):
    """What a coroutine returns that has nothing to wait for."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    coroutine.close()
    raise AssertionError(f"{coroutine!r} waits for something that is not done at once")


class AtOnce:
    """In place of ``asyncio`` in zarr's modules: tasks are done when they are made."""

    def __getattr__(self, name):
        return getattr(asyncio, name)

    async def to_thread(self, function, /, *args, **kwargs):
        return function(*args, **kwargs)

    async def gather(self, *waiting, return_exceptions=False):
        results, waiting = [], list(waiting)
        try:
            while waiting:
                try:
                    results.append(await waiting.pop(0))
                except Exception as error:
                    if not return_exceptions:
                        raise
                    results.append(error)
        finally:
            for left in waiting:
                getattr(left, "close", bool)()
        return results

    def create_task(self, coroutine, name=None):
        return Done(coroutine)

    ensure_future = create_task

    def as_completed(self, tasks):
        return list(tasks)


class Done:
    """A task that is done: its result, or its error for the one who waits for it."""

    def __init__(self, coroutine):
        self.result = self.error = None
        try:
            self.result = value(coroutine)
        except Exception as error:
            self.error = error

    def __await__(self):
        if self.error is not None:
            raise self.error
        return self.result
        yield
