#!/bin/sh
# Cost curve, replay benchmark and step overhead on a machine with an accelerator.
#
#   TRACES=answers.jsonl VOCAB=vocab.gguf sh bench/accelerator.sh cuda      (or metal, vulkan, hip, cpu)
#
# Builds llama-cpp-python for it into the Python environment at hand (SKIP_BUILD=1 leaves that out),
# measures replay models of the sizes in SIZES, and leaves all figures in OUT.
set -eu

backend=${1:?name a backend: cuda, metal, vulkan, hip or cpu}
: "${TRACES:?a JSONL of recorded answers}" "${VOCAB:?a GGUF with their tokenizer}"
PYTHON=${PYTHON:-python3}
SIZES=${SIZES:-1b 3b}
QUANT=${QUANT:-Q4_0}
CACHE=${CACHE:-$HOME/.cache/sssd-local-bench}
OUT=${OUT:-bench/results/$(date +%Y-%m-%d)/$backend}
PER_TASK=${PER_TASK:-4}
REPEAT=${REPEAT:-3}
# Unquoted below on purpose: no words without THREADS.
threads=${THREADS:+--threads $THREADS}

case $backend in
    cuda | metal | vulkan | hip) flag="-DGGML_$(echo "$backend" | tr '[:lower:]' '[:upper:]')=ON" ;;
    cpu) flag="-DGGML_NATIVE=ON" ;;
    *) echo "unknown backend $backend: cuda, metal, vulkan, hip or cpu" >&2; exit 2 ;;
esac
if [ -z "${SKIP_BUILD:-}" ]; then
    CMAKE_ARGS=$flag "$PYTHON" -m pip install --force-reinstall --no-cache-dir --no-deps \
        --no-binary llama-cpp-python llama-cpp-python==0.3.36
fi

mkdir -p "$OUT"
SSSD_LOCAL_HOME=${SSSD_LOCAL_HOME:-$(mktemp -d)}
export SSSD_LOCAL_HOME
for size in $SIZES; do
    "$PYTHON" -m bench replay --traces "$TRACES" --vocab "$VOCAB" --size "$size" --quant "$QUANT" \
        --methods plain,sssd,fixed-4,fixed-8,llama-cpp-python --per-task "$PER_TASK" \
        --repeat "$REPEAT" --cache "$CACHE" --out "$OUT/replay-$size" $threads
    model=$(ls -t "$CACHE"/replay-"$size"-"$QUANT"-*.gguf | head -n 1)
    "$PYTHON" -m sssd_local probe "$model" --fresh --json $threads > "$OUT/probe-$size.json"
    # The table of that same measurement: a second one may differ.
    "$PYTHON" -c 'import json, sys
from sssd_local.cli_probe import report_lines
print(*report_lines(json.load(sys.stdin)), sep="\n")' \
        < "$OUT/probe-$size.json" > "$OUT/probe-$size.txt"
    "$PYTHON" -m bench overhead --traces "$TRACES" --vocab "$VOCAB" --size "$size" \
        --quant "$QUANT" --cache "$CACHE" --json "$OUT/overhead-$size.json" \
        $threads > "$OUT/overhead-$size.md"
done
echo "figures are in $OUT"
