#!/bin/sh
# Build the kernels with sanitizers and run them on the test models: address and undefined behaviour, then threads.
# Threads are std::thread here: the sanitizer cannot see into an OpenMP library.
# Usage: tools/sanitize.sh [python]    (needs g++ with libasan, libubsan, libtsan; minutes)
set -eu
python=${1:-python}
here=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for kind in address,undefined thread; do
  cmake -S "$here" -B "$work/$kind" -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DGRACE_NATIVE_SANITIZE=$kind \
    -DGRACE_NATIVE_ALL_ISA=OFF -DGRACE_NATIVE_STANDALONE=ON -DPython_EXECUTABLE="$(command -v "$python")" > "$work/log" 2>&1 ||
    { tail -20 "$work/log"; exit 1; }
  cmake --build "$work/$kind" --target grace_replay > "$work/log" 2>&1 || { tail -40 "$work/log"; exit 1; }
  for model in fs 1l 1l-pairs 2l 3l; do
    for precision in fp64 fp32; do
      "$python" "$here/tools/write_case.py" "$here/tests/data/$model.grace" "$work/case.bin" $precision
      for threads in 1 3; do
        TSAN_OPTIONS=exitcode=66 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 "$work/$kind/grace_replay" "$work/case.bin" $threads
      done
    done
  done
  echo "$kind: clean"
done
