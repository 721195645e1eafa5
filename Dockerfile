# docker build -t msmlff .                               CPU
# docker build -t msmlff --build-arg DEVICE=cuda .       CUDA (run with --gpus all)
# docker run --rm -v "$PWD/outputs:/msmlff/outputs" msmlff python train.py model=msmace data=cpd_200
ARG DEVICE=cpu

FROM python:3.11-bookworm AS cpu
ENV PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu TORCH=torch==2.13.0+cpu

FROM nvidia/cuda:12.9.1-devel-ubuntu24.04 AS cuda
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-dev python3-venv g++ make git \
    && rm -rf /var/lib/apt/lists/*
ENV TORCH=torch==2.13.0 FORCE_CUDA=1 TORCH_CUDA_ARCH_LIST="8.0;8.6;8.9;9.0+PTX"

FROM ${DEVICE}
WORKDIR /msmlff
COPY . .
ENV PIP_NO_CACHE_DIR=1 PATH=/msmlff/.venv/bin:$PATH
RUN make install TORCH=$TORCH
CMD ["python", "train.py", "--help"]
