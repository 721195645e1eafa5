# docker build -t msmlff .                               CPU
# docker build -t msmlff --build-arg DEVICE=cuda .       CUDA (run with --gpus all)
# docker run --rm -v "$PWD/outputs:/msmlff/outputs" msmlff python train.py model=msmace data=cpd_200
ARG DEVICE=cpu

FROM python:3.11-bookworm AS cpu
ENV PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu TORCH=torch==2.13.0+cpu

# torch's wheel on PyPI brings the CUDA libraries along
FROM python:3.11-bookworm AS cuda
ENV TORCH=torch==2.13.0

FROM ${DEVICE}
WORKDIR /msmlff
COPY . .
ENV PIP_NO_CACHE_DIR=1 PATH=/msmlff/.venv/bin:$PATH
RUN make install TORCH=$TORCH
CMD ["python", "train.py", "--help"]
