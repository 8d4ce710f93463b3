"""Where records go: terminal, JSON lines, TensorBoard, a picture."""
