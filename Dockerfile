# An image for machines without a GPU and one for machines with an NVIDIA GPU, whose driver the host brings:
#
#   docker build --target cpu --tag nuclei .
#   docker build --target gpu --tag nuclei:gpu .
#   docker run --rm --volume "$PWD:/mine" nuclei predict-images images --output found
#   docker run --rm --volume "$PWD:/mine" --gpus all --shm-size 8g nuclei:gpu run /nuclei/ensembles/long_mobilenets.yaml
#
# --build-arg TORCH_INDEX=URL: a package index that has torch's CPU build, where uv's own is out of reach.

ARG PYTHON=3.13
FROM python:${PYTHON}-slim AS base
# git: results record the commit they were made with. libgomp1: LightGBM's threads.
RUN apt-get update && apt-get install --yes --no-install-recommends git libgomp1 && rm -rf /var/lib/apt/lists/*
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
# Packages are compiled here, for a container would compile them at each start.
ENV PATH=/nuclei/.venv/bin:$PATH PIP_NO_CACHE_DIR=1 UV_NO_CACHE=1 UV_COMPILE_BYTECODE=1 NO_ALBUMENTATIONS_UPDATE=1
WORKDIR /nuclei
# What decides the environment, before the code: a change of code installs nothing anew.
COPY pyproject.toml requirements.txt environment.sh hatch_build.py README.md LICENSE ./

FROM base AS gpu
RUN export NUCLEI_TORCH=cuda; source ./environment.sh
COPY . .
WORKDIR /mine
ENTRYPOINT ["nuclei"]
CMD ["--help"]

# Last, so that a build without --target makes this one.
FROM base AS cpu
ARG TORCH_INDEX=""
RUN export NUCLEI_TORCH=cpu NUCLEI_TORCH_INDEX="$TORCH_INDEX"; source ./environment.sh
COPY . .
WORKDIR /mine
ENTRYPOINT ["nuclei"]
CMD ["--help"]
