"""Pretrained networks of installed packages, rebuilt with jlayers and run beside the original."""
