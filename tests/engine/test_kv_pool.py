"""Operations on the pool's tensor beside attention."""

from __future__ import annotations

import numpy as np
import torch
from pie_engine.kernels.kv_pool import KvPool


def test_moving_slots_takes_all_layers_keys_and_values():
    pool = KvPool(4, 2, 3, 5, 4, torch.float32)
    pool.tensor.copy_(torch.randn_like(pool.tensor))
    before = [(pool.keys(layer).clone(), pool.values(layer).clone()) for layer in range(2)]
    # Slot 5 to slot 3 and slot 7 to slot 5: what is overwritten is read first.
    pool.move(np.asarray([[5, 3], [7, 5]], dtype=np.int32))
    for layer, (keys, values) in enumerate(before):
        for now, then in ((pool.keys(layer), keys), (pool.values(layer), values)):
            assert torch.equal(now[0, :, 3], then[1, :, 1])
            assert torch.equal(now[1, :, 1], then[1, :, 3])
            assert torch.equal(now[0, :, :3], then[0, :, :3])
            assert torch.equal(now[2:], then[2:])
