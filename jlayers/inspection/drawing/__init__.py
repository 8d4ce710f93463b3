"""Pictures of models: a layout of boxes and lines, written as SVG."""
