"""What decides the schedule: sizes of pool, model and step."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """`step_ms` caps the estimated work of a step; `max_rows` caps its rows whatever the estimate says."""

    pages: int
    page_size: int
    max_context: int
    vocab: int
    step_ms: float = 100.0
    max_rows: int = 2048
    immunity_steps: int = 64
    """Steps in which a context that lost its KV and came back is not a victim again; also how long the oldest waiting
    request is overtaken before it goes first."""
    adapter_memory: int = 1 << 30
    """Bytes of all loaded adapters."""
    swap_pages: int = 0
    """Pages that host memory keeps for contexts that had to leave the pool."""
    draft_model: bool = False
    """Runs may have their tokens guessed by one."""
    page_bytes: int = 0
    """Bytes of one page's content, as exports have it."""
    max_contexts: int = 65_536
    """Contexts of one runner."""
    max_account_contexts: int = 65_536
    """Contexts of one account, whoever runs its programs."""
    queue: int = 4096
    """Operations of one context that may wait behind an unfinished one."""

    def context_limit(self, page_cap: int) -> int:
        """Longest context an account with this cap (0: none) can have, in tokens."""
        pages = min(self.pages, page_cap) if page_cap else self.pages
        return min(self.max_context, pages * self.page_size)
