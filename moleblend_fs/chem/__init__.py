"""Molecules to graphs. The only place that imports rdkit or ogb."""
