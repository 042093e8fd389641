"""A model generating as transformers does it by itself: what the engine is compared with."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pie_wire.errors import InternalError
from transformers import AutoModelForCausalLM


class PlainGenerate:
    """bfloat16, the library's default attention, its own cache, greedy. For one thread, as the engine's device is."""

    def __init__(self, folder: Path, new_tokens: int) -> None:
        self._model: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.bfloat16, local_files_only=True
        ).eval()
        # Without an end token every prompt gives all of its tokens.
        self._model.generation_config.eos_token_id = None
        self._new_tokens = new_tokens
        self.threads = torch.get_num_threads()

    def choose_threads(self, prompts: Sequence[Sequence[int]]) -> None:
        """Take the number of threads with which these prompts are fastest."""
        most = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        counts = sorted({1, max(1, most // 2), most})
        self._timed(prompts, most)
        self.threads = min(counts, key=lambda count: self._timed(prompts, count))

    def milliseconds(self, prompts: Sequence[Sequence[int]]) -> float:
        """Generate for all prompts, of equal length, at once. The thread count is afterwards what it was before."""
        return self._timed(prompts, self.threads)

    def _timed(self, prompts: Sequence[Sequence[int]], threads: int) -> float:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        ids = torch.tensor([list(prompt) for prompt in prompts])
        began = time.perf_counter()
        try:
            given = self._model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=self._new_tokens,
                do_sample=False,
                pad_token_id=0,
            )
        finally:
            torch.set_num_threads(before)
        took = time.perf_counter() - began
        if given.shape[1] != ids.shape[1] + self._new_tokens:
            raise InternalError(f"generate gave {given.shape[1] - ids.shape[1]} tokens instead of {self._new_tokens}")
        return took * 1000.0
