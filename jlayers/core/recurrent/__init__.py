"""Recurrences: one fused rule for LSTM, GRU and the simple cell, and linear recurrences."""
