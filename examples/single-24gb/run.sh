#!/bin/bash
# The whole way on one GPU with 24 GB, with your own cases: bash examples/single-24gb/run.sh cases.jsonl
# No run of it at full size has been made here; --dry-run of each command tells memory and time first.
set -euo pipefail
cases=${1:?a file of cases}
here=$(dirname "$0")
idgrpo doctor
idgrpo sample --base vace --cases "$cases" --set encoder_device=cpu --size 416x240x33
idgrpo distort --data samples --per-video 4
idgrpo train-rm --data preferences --config "$here/train-rm.toml"
idgrpo train-policy --base vace --cases "$cases" --rm rm --config "$here/train-policy-vace.toml"
idgrpo sample --base vace --cases "$cases" --policy policy --as-trained --set encoder_device=cpu --name tuned
idgrpo eval --samples base=samples/vace --samples tuned=samples/tuned --reward rm
