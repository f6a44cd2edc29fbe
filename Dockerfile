# docker build -t oceankit . && docker run --rm -v "$PWD:/work" oceankit track VIDEO --init x,y,w,h
# What it runs are README's commands of installation. For torch without CUDA, hand pip the index that PyTorch's start page
# names: --build-arg PIP_EXTRA_INDEX_URL=...
FROM python:3.12-slim
ARG PIP_EXTRA_INDEX_URL
ENV PIP_NO_CACHE_DIR=1
COPY . /oceankit
RUN cd /oceankit && pip install ".[timm]"
WORKDIR /work
ENTRYPOINT ["oceankit"]
CMD ["--help"]
