"""Recurrent cells with layer norm: an LSTM, and one whose weights' rows a smaller LSTM scales at every step.

The row scales are no `Generator`: they scale rows of stored weights step by step, and no kernel is ever built.

D. Ha, A. Dai, Q. V. Le, "HyperNetworks", ICLR 2017, https://arxiv.org/abs/1609.09106
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GATES = ("input", "forget", "output", "candidate")
_FORGET = GATES.index("forget")


class NormedUpdate(nn.Module):
    """What an LSTM does with its gates' sums, each gate normed over its units, and the cell before it leaves.

    Args:
        hidden: units.
        dropout: fraction of the candidate's units to drop in training.
    """

    def __init__(self, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(len(GATES), len(GATES) * hidden)
        self.cell_norm = nn.LayerNorm(hidden)
        self.dropout = nn.Dropout(dropout)
        with torch.no_grad():
            self.norm.bias.view(len(GATES), hidden)[_FORGET] = 1

    def forward(self, sums: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """Sums ``(B, 4 hidden)``, in the order of `GATES`, and cell ``(B, hidden)`` to the new state and cell."""
        gates = self.norm(sums)
        candidate_at = 3 * cell.shape[1]
        accept, keep, show = gates[:, :candidate_at].sigmoid().chunk(3, dim=1)
        cell = torch.addcmul(keep * cell, accept, self.dropout(gates[:, candidate_at:].tanh()))
        return show * self.cell_norm(cell).tanh(), cell


class LayerNormLSTM(nn.Module):
    """LSTM with layer norm.

    Args:
        inputs: numbers a step.
        hidden: units.
        dropout: fraction of the candidate's units to drop in training.

    >>> LayerNormLSTM(28, 16)(torch.zeros(2, 5, 28)).shape
    torch.Size([2, 5, 16])
    """

    def __init__(self, inputs: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.hidden = hidden
        self.from_input = nn.Linear(inputs, len(GATES) * hidden)
        self.from_state = nn.Linear(hidden, len(GATES) * hidden, bias=False)
        self.update = NormedUpdate(hidden, dropout)
        orthogonal_gates_(self.from_state.weight)
        uniform_(self.from_input.bias.detach(), hidden)

    def forward(self, input: Tensor) -> Tensor:
        """``(B, steps, inputs)`` to the states ``(B, steps, hidden)``, the first step's made from zeros."""
        state = cell = input.new_zeros(len(input), self.hidden)
        states = []
        for from_input in self.from_input(input.transpose(0, 1)).unbind():
            state, cell = self.update(torch.addmm(from_input, state, self.from_state.weight.T), cell)
            states.append(state)
        return torch.stack(states, dim=1)


class LayerNormHyperLSTM(nn.Module):
    """LSTM with layer norm; a smaller one, which sees its state and input, scales its weights' rows and moves its bias.

    Args:
        inputs: numbers a step.
        hidden: units.
        hyper_hidden: units of the smaller one.
        embedding_dim: how many numbers of each gate's scales are a linear function of.
        dropout: fraction of the candidate's units to drop in training.

    >>> LayerNormHyperLSTM(28, 16, hyper_hidden=8)(torch.zeros(2, 5, 28)).shape
    torch.Size([2, 5, 16])
    """

    def __init__(
        self, inputs: int, hidden: int, hyper_hidden: int, embedding_dim: int = 4, dropout: float = 0.0
    ) -> None:
        super().__init__()
        gates = len(GATES)
        self.hidden = hidden
        self.hyper = LayerNormLSTM(hidden + inputs, hyper_hidden, dropout)
        self.from_input = nn.Linear(inputs, gates * hidden, bias=False)
        self.from_state = nn.Linear(hidden, gates * hidden, bias=False)
        self.bias = nn.Parameter(uniform_(torch.empty(gates * hidden), hidden))
        self.update = NormedUpdate(hidden, dropout)
        # in the order of what they are for: the state's weights, the input's, the bias
        self.embed = nn.Parameter(torch.zeros(3, gates, embedding_dim, hyper_hidden))
        self.embed_bias = nn.Parameter(torch.ones(2, gates, embedding_dim, 1))
        self.scale = nn.Parameter(torch.full((3, gates, hidden, embedding_dim), 0.1 / embedding_dim))
        orthogonal_gates_(self.from_state.weight)
        with torch.no_grad():
            self.embed[2].normal_(std=0.01)
            self.scale[2].zero_()

    def forward(self, input: Tensor) -> Tensor:
        """``(B, steps, inputs)`` to the states ``(B, steps, hidden)``, the first step's made from zeros."""
        return self.states_and_scales(input)[0]

    def states_and_scales(self, input: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The states, and for each step the generated ``(B, 3, 4, hidden)``.

        These are the scales of the rows of the state's and the input's weights, and the bias, for each of `GATES`.
        """
        hyper, sizes = self.hyper, [self.from_state.out_features, self.hyper.from_state.out_features]
        for_state, for_input = hyper.from_input.weight.split([self.hidden, input.shape[2]], dim=1)
        from_state_weight = torch.cat([self.from_state.weight, for_state]).T
        # embeddings are linear in the hyper state and scales in them, so that scales are one product
        scale_weight = (self.scale @ self.embed).flatten(0, 2).T
        scale_bias = torch.cat([(self.scale[:2] @ self.embed_bias).flatten(), self.bias])

        steps = input.transpose(0, 1)
        main_inputs = self.from_input(steps).unbind()
        hyper_inputs = F.linear(steps, for_input, hyper.from_input.bias).unbind()
        state = cell = input.new_zeros(len(input), self.hidden)
        hyper_state = hyper_cell = input.new_zeros(len(input), hyper.hidden)
        states, scales = [], []
        for main_input, hyper_input in zip(main_inputs, hyper_inputs, strict=True):
            from_state, hyper_sums = (state @ from_state_weight).split(sizes, dim=1)
            hyper_sums = torch.addmm(hyper_sums + hyper_input, hyper_state, hyper.from_state.weight.T)
            hyper_state, hyper_cell = hyper.update(hyper_sums, hyper_cell)
            generated = torch.addmm(scale_bias, hyper_state, scale_weight)
            of_state, of_input, bias = generated.chunk(3, dim=1)
            sums = torch.addcmul(torch.addcmul(bias, of_state, from_state), of_input, main_input)
            state, cell = self.update(sums, cell)
            states.append(state)
            scales.append(generated.unflatten(1, (3, len(GATES), self.hidden)))
        return torch.stack(states, dim=1), scales


class PlainLSTM(nn.LSTM):
    """``nn.LSTM`` that starts as the others do and returns its states ``(B, steps, hidden)`` only."""

    weight_hh_l0: Tensor
    bias_ih_l0: Tensor

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__(inputs, hidden, batch_first=True)
        orthogonal_gates_(self.weight_hh_l0)
        # in nn.LSTM too, the forget gate is the second
        with torch.no_grad():
            self.bias_ih_l0.view(len(GATES), hidden)[_FORGET] += 1

    def forward(self, input: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(input)[0]


def orthogonal_gates_(weight: Tensor) -> None:
    """Make each gate's square of ``(4 hidden, hidden)`` orthogonal."""
    for gate in weight.detach().chunk(len(GATES)):
        nn.init.orthogonal_(gate)


def uniform_(bias: Tensor, hidden: int) -> Tensor:
    """As ``nn.LSTM`` begins; with zeros, a blank input would leave the norms nothing but their epsilon to divide by."""
    return nn.init.uniform_(bias, -(hidden**-0.5), hidden**-0.5)
