"""What full pages are found by."""

from __future__ import annotations

import hashlib

import numpy as np

from pie_engine.contexts.context import Context

_DIGEST = 16


class PageHashes:
    """Chained hashes over everything that decides the KV of a page and of those before it: model, salt, tokens,
    positions, masks, adapters. Each is computed once for a context, which keeps it."""

    def __init__(self, fingerprint: str, page_size: int) -> None:
        """`fingerprint` stands for the model."""
        self._fingerprint = fingerprint.encode()
        self._page_size = page_size

    def of(self, context: Context, index: int) -> bytes:
        """That of the full page at an index of the context's table."""
        size, hashes = self._page_size, context.hashes
        salt = context.use.account.salt
        while len(hashes) <= index:
            start = len(hashes) * size
            before = hashes[-1] if hashes else self._fingerprint + context.origin
            digest = hashlib.blake2b(before, digest_size=_DIGEST, key=salt[:64])
            if len(salt) > 64:
                digest.update(salt)
            digest.update(np.asarray(context.tokens[start : start + size], dtype="<i4").tobytes())
            digest.update(context.lineage.digest(start, start + size))
            digest.update(context.adapters.identity(start, start + size))
            hashes.append(digest.digest())
        return hashes[index]
