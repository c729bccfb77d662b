# The core and all extras: docker build -t belvedere . ; docker run --gpus all -v "$PWD:/work" belvedere fit --config …
FROM python:3.11-slim

WORKDIR /opt/belvedere
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY belvedere belvedere
COPY callbacks callbacks
COPY configs configs
COPY datamodules datamodules
COPY drawing drawing
COPY ops ops
COPY studies studies
COPY tasks tasks
RUN pip install --no-cache-dir --constraint constraints.txt '.[all]' \
  && useradd --create-home --uid 1000 belvedere

USER 1000
WORKDIR /work
ENTRYPOINT ["belvedere"]
CMD ["--help"]
