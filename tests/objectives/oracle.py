"""The pretraining losses written a second time, pair by pair, from the method's description."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

NO_PATH = 255
EDGE, SPD, DISTANCE = 2, 1, 4


@dataclass(kw_only=True)
class Tally:
    """Sum and count of each loss over a batch, and what was left out."""

    total: dict[str, float] = field(default_factory=dict)
    count: dict[str, int] = field(default_factory=dict)
    out_of_range: int = 0

    def add(self, name: str, loss: float, count: int = 1) -> None:
        self.total[name] = self.total.get(name, 0.0) + loss
        self.count[name] = self.count.get(name, 0) + count


def cross_entropy(logits: Tensor, target: int) -> float:
    return float(torch.logsumexp(logits, 0) - logits[target])


def one_minus_cosine(a: Tensor, b: Tensor) -> float:
    return 1 - float(a @ b / (a.norm().clamp(min=1e-8) * b.norm().clamp(min=1e-8)))


def smooth_l1(a: float, b: float) -> float:
    gap = abs(a - b)
    return gap * gap / 2 if gap < 1 else gap - 0.5


def tally(batch, outputs, relations: Tensor, noise: Tensor, noisy: Tensor, hidden_only: bool) -> Tally:
    """Losses of a batch of outputs (packed, float64); only those for which `outputs` has something."""
    result, atom, pair = Tally(), 0, 0
    for molecule, n in enumerate(batch.num_atoms.tolist()):
        coordinates = batch.coordinates[atom : atom + n].double()
        geometry: dict[str, list[float]] = {"displacement": [], "distance": []}
        for i in range(n):
            for j in range(n):
                place = pair + i * n + j
                shown, spd = int(relations[place]), int(batch.spd[place])
                if i == j:
                    continue
                if outputs.spd is not None and spd != NO_PATH and not (hidden_only and shown & SPD):
                    result.add("spd", cross_entropy(outputs.spd[place], min(spd, 11) - 1))
                if outputs.edge is not None and not (hidden_only and shown & EDGE):
                    for hop in range(5):
                        code = int(batch.path_bonds[place, hop])
                        if code == 0:
                            continue
                        kind, stereo, conjugated = (code - 1) // 12, (code - 1) % 12 // 2, (code - 1) % 2
                        if kind > 3 or stereo > 2:
                            result.out_of_range += 1
                            continue
                        result.add("edge", cross_entropy(outputs.edge[place, hop], 6 * kind + 2 * stereo + conjugated))
                if batch.has_coordinates[molecule] and not (hidden_only and shown & DISTANCE):
                    step = coordinates[j] - coordinates[i]
                    if outputs.displacement is not None:
                        geometry["displacement"].append(one_minus_cosine(outputs.displacement[place], step))
                    if outputs.distance is not None:
                        geometry["distance"].append(smooth_l1(float(outputs.distance[place]), math.dist(coordinates[i], coordinates[j])))
        for name, losses in geometry.items():
            if losses:
                result.add(name, sum(losses) / len(losses))
        for a in range(atom, atom + n):
            if outputs.noise is not None and noisy[a] and n > 1:  # a lone atom sees no direction
                result.add("noise", one_minus_cosine(outputs.noise[a], noise[a].double()))
        atom, pair = atom + n, pair + n * n
    return result
