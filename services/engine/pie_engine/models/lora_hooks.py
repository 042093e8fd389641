"""Lets the linear layers of a transformers model be adapted: hooks that are there only in passes that need them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from pie_engine.models.lora import LoraPass
from pie_engine.models.lora_file import Adaptable


def adaptable_of(model: PreTrainedModel, name: str) -> Adaptable:
    """The linear layers that see every row of a pass.

    The output head sees the rows that are asked, and an expert those that are routed to it: neither can be adapted.
    Call this before linear layers are replaced.
    """
    head = model.get_output_embeddings()
    linears: dict[str, tuple[int, int]] = {}
    others: set[str] = set()
    for path, module in model.named_modules():
        if isinstance(module, nn.Linear) and module is not head and ".experts." not in path:
            linears[path] = (module.in_features, module.out_features)
        elif path and next(module.parameters(recurse=False), None) is not None:
            others.add(path)
    return Adaptable(name, linears, frozenset(others))


class LoraHooks:
    """The hooks of a model's linear layers."""

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        """`modules` are what stands for the linear layers, by their full names."""
        self._modules = modules
        self._handles: list[RemovableHandle] = []
        self._current: LoraPass | None = None

    def use(self, lora: LoraPass | None) -> None:
        """From now on layers add what `lora` gives; None: nothing, at no cost."""
        self._current = lora
        if lora is None:
            for handle in self._handles:
                handle.remove()
            self._handles.clear()
        elif not self._handles:
            self._handles = [m.register_forward_hook(self._hook(name)) for name, m in self._modules.items()]

    def _hook(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if self._current is not None:
                rows = inputs[0]
                self._current.add(rows.view(-1, rows.shape[-1]), (name, output.view(-1, output.shape[-1])))

        return add
