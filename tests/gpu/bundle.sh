#!/bin/sh
# make gpu-bundle: one archive for a machine that has an NVIDIA driver, Python with PyTorch, and nothing else. Nothing
# here needs a GPU.
#   sh tests/gpu/bundle.sh [FOLDER]    -> FOLDER/winnow-gpu.tar.xz (build/gpu-bundle without FOLDER)
# In it: the tests of kernels and of the engine, bench_cuda and winnow, linked statically but for glibc, libstdc++, the
# driver and gnutls, which comes along; run.sh and the two scripts it calls; the data that the tests read.
# BUNDLE_ARCH=90 chooses the machine code, one number or several: "80 86 90". FAST=1 packs quickly and larger.
set -eu
cd "$(dirname "$0")/../.."
to=${1:-build/gpu-bundle}
build=${BUILD:-build}/gpu
arch=
for n in ${BUNDLE_ARCH:-80 86 89 90}; do arch="$arch -gencode arch=compute_$n,code=sm_$n"; done
engine_tests="test_device_sampling test_reference test_engine test_policies test_policy_properties"

programs="$build/winnow $build/real/tests/bench/bench_cuda"
for name in $engine_tests; do programs="$programs $build/tests/unit/$name"; done
for source in tests/kernels/test_cuda_*.cpp; do programs="$programs $build/real/${source%.cpp}"; done
# shellcheck disable=SC2086 # names without blanks
make --no-print-directory -j"$(nproc)" BUILD="$build" TEST_CUDA=real CUDA_ARCH="$arch -lineinfo" \
    LIBS='-l:libmicrohttpd.a -lgnutls -l:libuv_a.a -l:libjansson.a -l:libpcre2-8.a -lm -pthread -ldl -lrt' \
    CHECK_LIBS='-l:libcheck.a -l:libsubunit.a -lm -lrt' $programs

stage=$build/bundle
rm -rf "$stage"
mkdir -p "$stage/bin" "$stage/lib" "$stage/tests" "$to"
# shellcheck disable=SC2086
cp $programs "$stage/bin/"
strip "$stage"/bin/*
ldd "$build/winnow" | awk '/gnutls|ffi|gmp|hogweed|idn2|nettle|p11-kit|tasn1|unistring/ { print $3 }' |
    xargs -I{} cp -L {} "$stage/lib/"
cp -r tests/data "$stage/tests/"
cp tests/gpu/run.sh tests/gpu/model_8b.py tests/gpu/torch_peer.py "$stage/"
git rev-parse --short=9 HEAD >"$stage/commit" 2>/dev/null || echo unknown >"$stage/commit"
preset=preset=6,dict=128MiB
[ -z "${FAST:-}" ] || preset=preset=1,dict=64MiB
tar -C "$stage" -cf - . | xz --lzma2="$preset" -T1 >"$to/winnow-gpu.tar.xz"
ls -l "$to/winnow-gpu.tar.xz"
echo "On the machine with the GPU: mkdir winnow-gpu && tar -xJf winnow-gpu.tar.xz -C winnow-gpu && sh winnow-gpu/run.sh"
