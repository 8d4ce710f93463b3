"""Programs for TPUs, compiled on a machine without one by the compiler in the package libtpu."""
