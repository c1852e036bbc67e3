#!/bin/bash
# The whole way on one GPU with 24 GB: bash examples/single-24gb/run.sh cases.jsonl heldout.jsonl (other people than in the first)
# No run of it at full size has been made here; --dry-run of each command tells memory and time first.
set -euo pipefail
cases=${1:?a file of cases}
heldout=${2:?a file of held-out cases}
here=$(dirname "$0")
idgrpo doctor
idgrpo sample --base vace --cases "$cases" --set encoder_device=cpu --size 416x240x33 --name material
idgrpo distort --data samples/material --per-video 4
idgrpo train-rm --data preferences/distorted --config "$here/train-rm.toml"
idgrpo train-policy --base vace --cases "$cases" --rm rm --config "$here/train-policy-vace.toml"
# Base and policy: the same cases, seed, size, steps and guidance.
idgrpo sample --base vace --cases "$heldout" --seed 1000 --set encoder_device=cpu --size 416x240x33 --name before
idgrpo sample --base vace --cases "$heldout" --seed 1000 --set encoder_device=cpu --size 416x240x33 --policy policy --name after
idgrpo eval --samples base=samples/before --samples tuned=samples/after --reward rm
