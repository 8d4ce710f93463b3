"""Correctness and speed on one NVIDIA GPU in minutes: ``make bench-gpu``.

* ``plan``: what there is to do, in the order of its importance;
* ``laws``: whether every layer is right there, forward and gradient;
* ``variants``: the rows' further candidates, such as ``method=``, the scan's unrolling and cuDNN;
* ``rows``, ``steps``, ``roofline``: what is measured;
* ``driver``: prepares in threads, times by turns, stores row by row, keeps to the minutes.

What is measured, how, and how it is stored is the rest of ``bench``.
"""
