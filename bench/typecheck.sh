#!/usr/bin/env bash
# The type checker cannot follow an editable install whose folders are mapped to other names, so it
# is shown the package as it would be installed: a folder of links, made anew.
set -eu
cd "$(dirname "$0")/.."
rm -rf .typing
mkdir -p .typing/waterclock
for folder in isa rtl compiler sim fpga; do ln -s "../../$folder" ".typing/waterclock/$folder"; done
for file in waterclock/*.py; do ln -s "../../$file" ".typing/waterclock/"; done
basedpyright --level error
