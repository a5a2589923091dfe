#!/usr/bin/env bash
# Everything that gpuq wants to know of a GPU machine, in one command, within a budget.
#
#     bash bench/gpu_session.sh [--budget SECONDS] [--wheels FOLDER]
#
# Phases, in order of their worth; each has its part of the budget, and one that fails or runs late stops no other:
#
#     tests      the tests marked gpu                                             gpu_tests.xml
#     microbench what the GPU can do at most                                      microbench.json
#     classes    bench_conv2d: the three likeliest candidates, beside peers       conv2d_cuda.json
#     models     bench_models: whole networks, PyTorch and LiteRT beside them       models_cuda.json
#     calibrate  bench_calibrate: float networks observed, LiteRT beside them     calibrate_cuda.json
#     operators  random operators of every profile, which the runtimes' wheels make  operators.xml
#     sanitize   small layers under compute-sanitizer's tools                     sanitize.json
#     all        bench_conv2d: all candidates of all layers, until time is up     conv2d_cuda_all.json
#     report     the table at the end; `report.py --plots` draws plots of the files anywhere
#
# What the phases print goes to session.log. All files are in $OUT (default: bench/results): ten at most.
# A machine without a package index takes the packages that it lacks from a folder of wheels (see
# fetch_wheels.sh; default: bench/.wheels). They are installed into a folder of their own, which goes at the end.
# Real models, for the tests and benches of whole networks, are looked for in GPUQ_MATERIAL, or bench/.material; the
# networks of bench/networks.py need no files.
#
# Environment: OUT, PYTHON (default: python3), GPUQ_CACHE_DIR (default: one that goes at the end).
# Exit status: 0; 1 if a test failed, an output was wrong or a sanitizer found an error; 2 if gpuq does not run at all.
set -uo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
budget=480
wheels=$root/bench/.wheels
while (($#)); do
    case $1 in
        --budget) budget=${2:?--budget needs a number of seconds}; shift 2 ;;
        --wheels) wheels=$(cd "${2:?--wheels needs a folder}" && pwd) || exit 2; shift 2 ;;
        -h | --help) sed -n '2,/^set /p' "${BASH_SOURCE[0]}" | sed '$d; s/^# \{0,1\}//'; exit 0 ;;
        *) echo "gpu_session: unknown argument $1" >&2; exit 2 ;;
    esac
done
[[ $budget =~ ^[0-9]+$ ]] || { echo "gpu_session: --budget $budget must be whole seconds" >&2; exit 2; }

OUT=${OUT:-$root/bench/results}
mkdir -p "$OUT" && OUT=$(cd "$OUT" && pwd) || exit 2
python=${PYTHON:-python3}
log=$OUT/session.log
scratch=$(mktemp -d) || exit 2
trap 'rm -rf "$scratch"; rm -f "$OUT"/*.tmp' EXIT
trap 'exit 130' INT TERM
cd "$root" || exit 2
: >"$log"

export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
export PYTHONUNBUFFERED=1 OPENBLAS_NUM_THREADS=1
export GPUQ_CACHE_DIR=${GPUQ_CACHE_DIR-$scratch/kernels}

SECONDS=0
left() { echo $((budget - SECONDS)); }
say() { printf '[%3ds] %s\n' "$SECONDS" "$*" | tee -a "$log"; }

# phase NAME SECONDS COMMAND...: its output into the log; its status is that of the command, 124 if it ran late.
phase() {
    local name=$1 slice=$2 status
    shift 2
    ((slice > $(left))) && slice=$(left)
    if ((slice < 5)); then
        say "$name: left out, no time"
        return 124
    fi
    printf '\n==== %s, %ss: %s\n' "$name" "$slice" "$*" >>"$log"
    local start=$SECONDS
    timeout --kill-after=5 "$slice" "$@" >>"$log" 2>&1
    status=$?
    say "$name: status $status after $((SECONDS - start))s"
    if ((status != 0)); then tail -n 12 "$log" | cut -c 1-240 | sed 's/^/    /'; fi
    return $status
}

# ---- packages

if compgen -G "$wheels/*.whl" >/dev/null; then
    for wheel in "$wheels"/*.whl; do
        "$python" -m pip --disable-pip-version-check install --quiet --no-index --no-deps --no-compile --upgrade \
            --target "$scratch/site" "$wheel" >>"$log" 2>&1 || say "not installed: $(basename "$wheel")"
    done
    export PYTHONPATH=$PYTHONPATH:$scratch/site
fi
if ! "$python" -c 'import gpuq' >>"$log" 2>&1; then
    say "gpuq does not import: $(tail -n 1 "$log")"
    exit 2
fi
for package in cupy torch nvtx cudnn matplotlib pytest; do
    "$python" -c "import importlib.util as u, sys; sys.exit(u.find_spec('$package') is None)" || say "no $package"
done
{ nvidia-smi; "$python" -m gpuq doctor; } >>"$log" 2>&1
if ! "$python" -c 'import sys; from gpuq.cuda import unavailable; reason = unavailable(0); print(reason or ""); sys.exit(bool(reason))' >>"$log" 2>&1; then
    say "no GPU for gpuq: $(tail -n 1 "$log")"
    exit 2
fi
say "$("$python" -c 'from gpuq.cuda import probe; print(probe().gpus[0], probe().driver, probe().nvrtc)' 2>>"$log")"

# ---- phases

[[ -z ${GPUQ_MATERIAL:-} && -d $root/bench/.material ]] && export GPUQ_MATERIAL=$root/bench/.material
failed=0
worse() { failed=1; }

# Kernels compile in as many processes as there are cores, if pytest-xdist is there.
workers=()
"$python" -c 'import xdist' 2>>"$log" && workers=(-n 8 --dist worksteal)

mapfile -t files < <(grep -lE 'mark\.gpu' tests/test_*.py)
if ((${#files[@]})); then
    # Warnings of other packages at their import are not this phase's business.
    phase tests 150 "$python" -m pytest -m gpu -q -p no:cacheprovider -W default --maxfail=40 "${workers[@]}" \
        --junitxml="$OUT/gpu_tests.xml" "${files[@]}" || worse
    grep -E '^(FAILED|ERROR) |(passed|failed|skipped).* in ' "$log" | tail -n 25 | cut -c 1-220
fi

phase microbench 45 "$python" -m bench.microbench --budget 35 --output "$OUT/microbench.json" || worse

# bench COMMAND: goes on after a lost GPU, without the layer that lost it. Its own budget ends it in good order first.
bench() {
    local name=$1 slice=$2 output=$3 tries=0 status end
    shift 3
    ((slice > $(left))) && slice=$(left)
    end=$((SECONDS + slice))
    while ((tries < 4 && end - SECONDS > 8)); do
        local inner=$((end - SECONDS - 6)) resume=()
        ((tries)) && resume=(--resume)
        phase "$name" $((end - SECONDS)) "$python" -m bench.bench_conv2d --budget "$inner" --output "$output" \
            --microbench "$OUT/microbench.json" "${resume[@]}" "$@"
        status=$?
        ((status == 3 || status >= 128)) || break # 3: the GPU was lost; 128 and more: killed by a signal
        tries=$((tries + 1))
    done
    ((${status:-0} == 0 || ${status:-0} == 124)) || worse
}

rm -f "$OUT/conv2d_cuda.json" "$OUT/conv2d_cuda_all.json"
bench classes 150 "$OUT/conv2d_cuda.json" --candidates 3 --peers classes \
    --layers "big 3x3,1x1 wide,1x1 narrow,depthwise,stem,odd,padded"

# Whole networks: those in memory, then, where there are any, real ones. Its own budget ends it in good order.
slice=110
((slice > $(left))) && slice=$(left)
phase models "$slice" "$python" -m bench.bench_models --device cuda --seconds 0.2 --budget $((slice - 5)) \
    --output "$OUT/models_cuda.json" || worse

phase calibrate 60 "$python" -m bench.bench_calibrate --device cuda --images 256 --repeats 2 \
    --output "$OUT/calibrate_cuda.json" || worse

if "$python" -c 'import ai_edge_litert, tflite_micro, hypothesis' 2>>"$log"; then
    GPUQ_KERNELS=gpu GPUQ_KERNEL_CASES=20 phase operators 120 "$python" -m pytest -q -p no:cacheprovider -W default \
        --maxfail=40 "${workers[@]}" --junitxml="$OUT/operators.xml" tests/peers/test_random_kernels.py || worse
fi

phase sanitize 130 "$python" -m bench.sanitize --budget 110 --output "$OUT/sanitize.json" || worse

reserve=20
bench all $(($(left) - reserve)) "$OUT/conv2d_cuda_all.json" --candidates all --peers none --samples 11

# ---- report

budget=$((budget + reserve)) # the table is worth a few seconds more
timeout 20 "$python" -m bench.report --summary "$OUT" 2>>"$log" | tee -a "$log"
say "$( ((failed)) && echo 'something failed: see above and session.log' || echo 'all well'); files in $OUT:"
rm -f "$OUT"/*.tmp
ls -l "$OUT" | awk 'NR > 1 { print "    " $5, $9 }'
exit "$failed"
