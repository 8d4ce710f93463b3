"""Tables that tests walk: one instance of each layer."""
