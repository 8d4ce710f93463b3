"""Layers of graphs: nodes, and edges that messages go along."""
