"""The contract: what a layer is, and all that every other package builds on."""
