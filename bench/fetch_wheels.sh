#!/usr/bin/env bash
# Downloads the wheels that a GPU machine without a package index may lack, for gpu_session.sh.
#
#     bash bench/fetch_wheels.sh [FOLDER]        default: bench/.wheels
#
# For Python 3.12 on Linux, x86-64; another one by PYTHON_TAG=312 and PYTHON=python3. What a package needs itself is
# not fetched: everything else that gpuq imports (numpy, pillow, rich, flatbuffers, threadpoolctl), the tests' hypothesis
# and the peers (torch, CuPy) are expected there. cuDNN's frontend is a peer of the benches (later versions of it need
# packages of gigabytes); the runtimes are peers too, and make the random operators of the tests.
set -euo pipefail

folder=${1:-"$(dirname "$0")/.wheels"}
python=${PYTHON:-python3}
tag=${PYTHON_TAG:-312}
mkdir -p "$folder"

platforms=()
for minor in 17 24 27 28 31 34; do platforms+=(--platform "manylinux_2_${minor}_x86_64"); done
platforms+=(--platform manylinux2014_x86_64 --platform manylinux1_x86_64 --platform any)

# In the versions that the tests pin.
mapfile -t runtimes < <(grep -oE '"(ai-edge-litert|tflite-micro)==[^"]+' "$(dirname "$0")/../pyproject.toml" | tr -d '"')
runtimes+=(backports.strenum)
for package in "nvtx>=0.2.10" "tflite>=2.18,<3" "nvidia-cudnn-frontend==1.18.0" "${runtimes[@]}"; do
    "$python" -m pip --disable-pip-version-check download --quiet --no-deps --only-binary=:all: \
        --python-version "$tag" --implementation cp "${platforms[@]}" --dest "$folder" "$package" ||
        echo "fetch_wheels: no wheel of $package; what needs it will be recorded as unavailable" >&2
done
ls -l "$folder"
