#!/bin/sh
# Prints a Python of 3.12 or later that can make virtual environments; fails if there is none.
for python in python3.14 python3.13 python3.12 python3 "$(pyenv root 2>/dev/null)"/versions/3.1[2-9]*/bin/python; do
    if "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 12))' 2>/dev/null; then
        command -v "$python"
        exit 0
    fi
done
exit 1
