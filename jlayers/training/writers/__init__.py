"""Where the records of a run go: terminal, JSON lines, TensorBoard, a picture."""
