"""The model, written a second time from the method's description: one molecule, dense tensors, float64, plain loops.

Shares nothing with the model but the names of its parameters.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

SPD, EDGE, DISTANCE = 1, 2, 4
NO_PATH = 255


@dataclass(kw_only=True)
class Molecule:
    """One molecule and what is shown of it: relations (n, n) sums of SPD, EDGE, DISTANCE; degree_shown and distances (n,) bool."""

    atom_features: Tensor
    degree: Tensor
    spd: Tensor
    path_bonds: Tensor
    coordinates: Tensor
    relations: Tensor
    degree_shown: Tensor
    distances: Tensor


def molecules_of(batch, relations: Tensor, degree_shown: Tensor, distances: Tensor, coordinates: Tensor) -> list[Molecule]:
    """Cut a packed batch and what is shown of it into molecules."""
    result, atom, pair = [], 0, 0
    for n in batch.num_atoms.tolist():
        a, p = slice(atom, atom + n), slice(pair, pair + n * n)
        result.append(
            Molecule(
                atom_features=batch.atom_features[a].long(),
                degree=batch.degree[a].long(),
                spd=batch.spd[p].view(n, n).long(),
                path_bonds=batch.path_bonds[p].view(n, n, 5).long(),
                coordinates=coordinates[a].double(),
                relations=relations[p].view(n, n).long(),
                degree_shown=degree_shown[a],
                distances=distances[a],
            )
        )
        atom, pair = atom + n, pair + n * n
    return result


class Oracle:
    """Outputs of one molecule from the parameters of a model."""

    def __init__(self, parameters: Mapping[str, Tensor], *, layers: int, heads: int):
        self.p = {name: value.detach().double() for name, value in parameters.items()}
        self.layers, self.heads = layers, heads

    def linear(self, x: Tensor, name: str) -> Tensor:
        return x @ self.p[f"{name}.weight"].T + self.p[f"{name}.bias"]

    def norm(self, x: Tensor, name: str, eps: float) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt() * self.p[f"{name}.weight"] + self.p[f"{name}.bias"]

    @staticmethod
    def gelu(x: Tensor) -> Tensor:
        return x * (1 + torch.erf(x / math.sqrt(2))) / 2

    def gaussians(self, m: Molecule) -> Tensor:
        """(n, n, K): the Gaussians of mul_ij |r_i - r_j| + shift_ij, an ordered pair."""
        n = len(m.degree)
        means, widths = self.p["relations.gaussian_means"], self.p["relations.gaussian_stds"].abs() + 0.01
        out = torch.zeros(n, n, len(means), dtype=torch.float64)
        for i in range(n):
            for j in range(n):
                first, second = m.atom_features[i, 0] + 3, m.atom_features[j, 0] + 3 + 512
                mul = self.p["relations.distance_mul"][first] + self.p["relations.distance_mul"][second]
                shift = self.p["relations.distance_shift"][first] + self.p["relations.distance_shift"][second]
                x = mul * (m.coordinates[i] - m.coordinates[j]).square().sum().sqrt() + shift
                out[i, j] = torch.exp(-(((x - means) / widths) ** 2) / 2) / (math.sqrt(2 * math.pi) * widths)
        return out

    def bias(self, m: Molecule) -> Tensor:
        """(n, n, H): the sum of the relations that each pair shows."""
        n = len(m.degree)
        bonds, matrices = self.p["relations.bond_table.weight"], self.p["relations.hop_matrices"]
        gaussians = self.gaussians(m)
        out = torch.zeros(n, n, self.heads, dtype=torch.float64)
        for i in range(n):
            for j in range(n):
                shown, spd = int(m.relations[i, j]), int(m.spd[i, j])
                if shown & SPD:
                    out[i, j] += self.p["relations.spd_table.weight"][511 if spd == NO_PATH else spd + 1]
                if shown & EDGE and i != j and spd != NO_PATH:
                    for hop in range(min(spd, 5)):
                        code = int(m.path_bonds[i, j, hop]) - 1
                        values = (code // 12, code % 12 // 2, code % 2)  # type, stereo, conjugated
                        rows = [bonds[value + 3 + 512 * feature] for feature, value in enumerate(values)]
                        out[i, j] += sum(rows) / 3 @ matrices[hop] / min(max(spd, 1), 5)
                if shown & DISTANCE:
                    hidden = self.gelu(self.linear(gaussians[i, j], "relations.distance_hidden"))
                    out[i, j] += self.linear(hidden, "relations.distance_out")
        return out

    def embeddings(self, m: Molecule) -> Tensor:
        """(n + 1, d): the graph token, then the atoms."""
        gaussians = self.gaussians(m)
        rows = [self.p["atoms.graph_token"]]
        for i in range(len(m.degree)):
            row = sum(self.p["atoms.atom_table.weight"][m.atom_features[i, f] + 2 + 512 * f] for f in range(9))
            if m.degree_shown[i]:
                at = m.degree[i] + 1
                row = row + self.p["atoms.in_degree_table.weight"][at] + self.p["atoms.out_degree_table.weight"][at]
            if m.distances[i]:
                row = row + 0.01 * self.linear(gaussians[i].sum(dim=0), "atoms.from_gaussians")
            rows.append(row)
        return torch.stack(rows)

    def probabilities(self, q: Tensor, k: Tensor, bias: Tensor) -> Tensor:
        """(H, N, N) attention of (N, H, w) queries and keys with an (N, N, H) bias."""
        width = q.shape[2]
        return torch.stack([torch.softmax(q[:, h] @ k[:, h].T / math.sqrt(width) + bias[:, :, h], dim=1) for h in range(self.heads)])

    def encode(self, m: Molecule, pair_bias: Tensor) -> Tensor:
        """(n + 1, d) final representations."""
        x = self.norm(self.embeddings(m), "encoder.embedding_norm", 1e-5)
        tokens, d = x.shape
        bias = self.p["relations.graph_bias"].expand(tokens, tokens, self.heads).clone()
        bias[1:, 1:] = pair_bias
        for layer in range(self.layers):
            name = f"encoder.blocks.{layer}"
            q, k, v = (part.reshape(tokens, self.heads, -1) for part in self.linear(x, f"{name}.qkv").split(d, dim=1))
            attention = self.probabilities(q, k, bias)
            out = torch.cat([attention[h] @ v[:, h] for h in range(self.heads)], dim=1)
            x = self.norm(x + self.linear(out, f"{name}.attention_out"), f"{name}.attention_norm", 1e-5)
            hidden = self.gelu(self.linear(x, f"{name}.ffn_in"))
            x = self.norm(x + self.linear(hidden, f"{name}.ffn_out"), f"{name}.ffn_norm", 1e-5)
        return x

    def pair_outputs(self, atoms: Tensor, head: str) -> Tensor:
        """(n, n, C) of an outer-product head, the outer products built."""
        left = self.norm(self.gelu(self.linear(atoms, f"heads.{head}.left")), f"heads.{head}.left_norm", 1e-12)
        right = self.norm(self.gelu(self.linear(atoms, f"heads.{head}.right")), f"heads.{head}.right_norm", 1e-12)
        n = len(atoms)
        z = self.linear(torch.einsum("ia,jb->ijab", left, right).reshape(n, n, -1), f"heads.{head}.out")
        return self.linear(z, f"heads.{head}.axes") if f"heads.{head}.axes.weight" in self.p else z

    def noise(self, atoms: Tensor, m: Molecule, pair_bias: Tensor) -> Tensor:
        """(n, 3) predicted noise."""
        n, d = atoms.shape
        q, k = (self.linear(atoms, f"heads.noise.{name}").reshape(n, self.heads, -1) for name in ("query", "key"))
        v = self.linear(atoms, "heads.noise.value").reshape(n, self.heads, -1)
        attention = self.probabilities(q, k, pair_bias)
        out = torch.zeros(n, 3, dtype=torch.float64)
        for axis in range(3):
            gathered = torch.zeros(n, d, dtype=torch.float64)
            for i in range(n):
                for j in range(n):
                    step = m.coordinates[j] - m.coordinates[i]
                    unit = step[axis] / (step.square().sum().sqrt() + 1e-5)
                    gathered[i] += torch.cat([attention[h, i, j] * unit * v[j, h] for h in range(self.heads)])
            out[:, axis] = gathered @ self.p["heads.noise.axes.weight"][axis] + self.p["heads.noise.axes.bias"][axis]
        return out

    def outputs(self, m: Molecule) -> dict[str, Tensor]:
        """Everything that the parameters can give of one molecule."""
        bias = self.bias(m)
        tokens = self.encode(m, bias)
        result = {"bias": bias, "tokens": tokens}
        for head in ("spd", "edge", "displacement", "distance"):
            if f"heads.{head}.left.weight" in self.p:
                result[head] = self.pair_outputs(tokens[1:], head)
        if "heads.noise.query.weight" in self.p:
            result["noise"] = self.noise(tokens[1:], m, bias)
        if "heads.property.out.weight" in self.p:
            hidden = self.gelu(self.linear(tokens[0], "heads.property.hidden"))
            result["properties"] = self.linear(hidden, "heads.property.out")
        return result
