"""The first layer whose values or gradients are not finite."""
