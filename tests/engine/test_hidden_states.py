"""Hidden states of rows are those that the output layer reads, beside logits of the same rows and of others."""

from __future__ import annotations

import copy

import torch
import transformers
from pie_engine.kernels.torch_attention import TorchAttention
from pie_engine.models.model_device import ModelDevice
from pie_engine.models.transformers_model import TransformersModel
from pie_engine.passes.build import build
from pie_engine.passes.device import TopK, Vector
from pie_engine.passes.outputs import HiddenProbe, LogitsProbe, Output, TopKProbe
from pie_engine.passes.segment import Segment


def test_hidden_states_are_what_the_output_layer_reads():
    torch.manual_seed(5)
    config = transformers.LlamaConfig(
        hidden_size=64,
        intermediate_size=128,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_hidden_layers=2,
        vocab_size=512,
        initializer_range=0.2,
    )
    plain = transformers.LlamaForCausalLM(config).eval()
    model = TransformersModel(copy.deepcopy(plain), TorchAttention(), name="tiny", pack=False)
    model.allocate(8, 16)
    tokens = [5, 6, 7, 8, 9]
    wanted = [(3, HiddenProbe()), (1, LogitsProbe()), (3, TopKProbe(2)), (0, HiddenProbe()), (1, HiddenProbe())]
    segment = Segment(tokens, range(5), 0, [0], outputs=[Output(row, row + 1, spec) for row, spec in wanted])
    results = ModelDevice(model, threads=1).execute(build([segment], page_size=16, scratch_page=8))
    with torch.inference_mode():
        theirs = plain(torch.tensor([tokens]), output_hidden_states=True)
    states, logits = theirs.hidden_states[-1][0], theirs.logits[0]
    for (row, spec), result in zip(wanted, results, strict=True):
        if isinstance(spec, TopKProbe):
            assert isinstance(result, TopK)
            assert list(result.ids) == logits[row].topk(2).indices.tolist()
            continue
        assert isinstance(result, Vector)
        expected = states[row] if isinstance(spec, HiddenProbe) else logits[row]
        assert torch.allclose(torch.from_numpy(result.values), expected, atol=1e-4)
